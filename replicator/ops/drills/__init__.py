"""Drills: rehearsed failures with measured RPO and RTO, a report, and a way back.

    plan ─▶ canaries run ─▶ the event ─▶ watched, measured ─▶ undone, and back ─▶ compared ─▶ report, verdict, metric

Guarantee: what a drill did to a deployment is undone by it: at its end, when it is told to stop, and at the next
start if it was killed (``undo_log``, ``cleanup``). It stops itself when more is at risk than the plan allows. A verdict
is made only from what was measured; what could not be measured misses its target.

Where to look: ``run`` (the verb, from its arguments to the report), then one of the three ways to carry out a plan:

    live           on the running deployment: ``watch``, ``canary`` with ``canary_writers``, ``faults``, ``final_state``
    rehearsal      on a ``fork`` of a standby: ``fork_place`` (where it is made and how thrown away), ``fork_writers``
    simulation     with the operator's rules on a virtual clock; ``simulation_report``

``plan_file`` reads the plan, ``targets`` says which regions it is about, ``regions`` asks them. Everything that decides
and knows no I/O is in ``rules`` (the plan, what was observed and measured, when a drill may begin and has to stop) and
in ``report`` (the verdict, ``report.json``, the page, the lines), which rests on ``rules``.
"""
