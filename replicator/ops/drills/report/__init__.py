"""What came of a drill, pure: no clock, no I/O.

``form`` is the documented form of ``report.json``; ``verdict`` judges what was measured, ``live`` puts the report of a
live drill together under its ``heading``; ``html``, ``svg`` and ``text`` show it.
"""
