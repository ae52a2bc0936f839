"""Fencing: making a region that is not the primary unable to take its applications' writes.

Where to look: ``base`` (what every fence promises), ``embedded`` (the gate of an embedded ledger).
"""
