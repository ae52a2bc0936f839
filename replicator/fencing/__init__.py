"""Fences: what makes a ledger refuse the writes of whoever does not hold the current epoch.

``base`` has the protocol; ``embedded`` is a gate in the process of the embedded ledger.
"""
