"""Drills: rehearsed failures with measured RPO and RTO, a report, and a way back.

    plan ─▶ canaries run ─▶ the event ─▶ watched, measured ─▶ undone, and back ─▶ compared ─▶ report, verdict, metric

Guarantee: what a drill did to a deployment is undone by it: at its end, when it is told to stop, and at the next
start if it was killed (``notes``). It stops itself when more is at risk than the plan allows. A verdict is made only
from what was measured; what could not be measured misses its target.

Pure are ``plan``, ``sights``, ``measures``, ``timeline``, ``stopping``, ``verdict``, ``page`` and ``picture``;
``live``, ``rehearsal`` and ``local`` are the three ways to carry out a plan.
"""
