"""``replicator demo``: replication, failover and back on this machine, with real processes and traffic, then judged.

Guarantee: everything that is shown happened. The regions are sidecars started as an operator starts them, the traffic
goes over their HTTP API, the kills are SIGKILL, and the last word is a comparison of every row of every region and of
all money with what the customers were told. Nothing is left behind, also after Ctrl-C.

Where to look: ``run`` (from the outside), ``story`` (the course of events), ``regions`` (processes), ``bank`` (pure:
operations and books), ``customers`` (traffic), ``watch`` (what the regions say of themselves), ``judge`` (the verdict),
``report`` (figures and sentence), ``show`` (the screen).
"""
