"""Fencing: making a region that is not the primary unable to take its applications' writes.

Where to look: ``base`` (what every fence promises), ``embedded`` (the gate of an embedded ledger), ``postgres`` (the
fence of a PostgreSQL database) over ``sql`` (the gate before its tables) and ``terms`` (what keeps that open for a
time), ``session`` (talking to a server in bounded time), ``needs`` (what the sidecar's role must be allowed to).
"""
