"""Fencing: making a region that is not the primary unable to take its applications' writes.

Where to look: ``base`` (what every fence promises), ``embedded`` (the gate of an embedded ledger), ``postgres`` (the
fence of a PostgreSQL database) over ``gate_sql`` (the gate before its tables) and ``term_sql`` (what keeps that open
for a time), ``session`` (talking to a server in bounded time), ``preflight`` (what the sidecar's role must be allowed
to).
"""
