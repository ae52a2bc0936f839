"""PostgreSQL as a source: see ``source.py``."""

from replicator.sources.postgres.options import PostgresOptions
from replicator.sources.postgres.preflight import preflight
from replicator.sources.postgres.snapshot import Snapshot, last_visible, open_snapshot
from replicator.sources.postgres.source import PostgresSource

__all__ = ["PostgresOptions", "PostgresSource", "Snapshot", "last_visible", "open_snapshot", "preflight"]
