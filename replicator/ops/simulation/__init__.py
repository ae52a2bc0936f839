"""Failover in a world of its own: the real decisions on a virtual clock, with faults, and checkers at every event.

Guarantee: one seed is one history, wholly. Nothing here touches a socket, a file, a thread or the time of day, so a
history that broke a law is replayed by its seed, as often as one likes.

Read ``world`` first, then ``region`` (what a sidecar keeps and does), ``executor`` (its actions), ``store`` (the lease
store), ``checks`` (the laws). ``scenario`` draws a whole random history from a seed.

Not here: the decisions themselves. They are those of ``replicator.cluster.failover``, called as the running sidecar
calls them. What stands for everything around them (network, disks, lease store, ledgers) is a model: it says what is
possible, not how long PostgreSQL takes.
"""
