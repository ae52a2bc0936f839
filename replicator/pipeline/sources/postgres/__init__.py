"""PostgreSQL as a source: see ``source.py``."""

from replicator.pipeline.sources.postgres.ledger import PostgresLedger
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.preflight import preflight
from replicator.pipeline.sources.postgres.snapshot import TransactionSnapshot, last_visible, open_snapshot
from replicator.pipeline.sources.postgres.source import PostgresSource

__all__ = [
    "PostgresLedger",
    "PostgresOptions",
    "PostgresSource",
    "TransactionSnapshot",
    "last_visible",
    "open_snapshot",
    "preflight",
]
