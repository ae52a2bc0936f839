"""The embedded ledger: an append-only ledger on SQLite for small installations, and the read API of every region.

In the order of a write: ``api`` (HTTP) → ``ledger`` (group commit) → ``request`` (parsing) → ``commit`` (the one
writer) → ``evaluate`` (what a statement makes of a document) → the journal (this is the commit) → the state, a SQLite
replica.
Reads: ``api`` → ``reads`` → a replica's Reader and the journal's history.
"""
