"""A PostgreSQL database as a primary's ledger: see ``CapturedLedger`` in ``pipeline/sources/base.py``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from replicator.config.finding import Finding
from replicator.format.definition import Definition
from replicator.pipeline.replicas.base import SetSequence
from replicator.pipeline.replicas.postgres import PostgresReader
from replicator.pipeline.sources.base import Captured
from replicator.pipeline.sources.postgres.moments import PostgresMoments
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.preflight import preflight
from replicator.pipeline.sources.postgres.recopy import ask_for_copies
from replicator.pipeline.sources.postgres.sequences import read_sequences
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.source import PostgresSource
from replicator.storage.journal.store import Journal


class PostgresLedger:
    """One database; building it opens nothing."""

    def __init__(self, options: PostgresOptions) -> None:
        self.source = PostgresSource(options)
        self._options = options

    def preflight(self) -> Iterable[Finding]:
        """The server's settings, the role's rights, the tables, the slot and the publication."""
        return preflight(self._options)

    def open_reader(self, definitions: dict[int, Definition], *, locking: bool = False) -> PostgresReader:
        """Reads the database itself, which has no table of the sidecar's that would describe its rows."""
        return PostgresReader(self._options.dsn, definitions, locking=locking)

    def moments(self, captured: Captured, *, locking: bool) -> PostgresMoments:
        """Snapshots of the database, each with the block that it belongs to."""
        return PostgresMoments(
            self._options.dsn, self._options.publication, captured, self.source.report, locking=locking
        )

    def ask_for_copies(self, journal: Journal, labels: Sequence[str]) -> list[str]:
        """Have these tables copied anew when the source starts next."""
        return ask_for_copies(self._options, journal, labels)

    def sequences(self) -> list[SetSequence]:
        """The published sequences; asked on a session of its own, whatever the source does meanwhile."""
        with session(self._options) as connection:
            return [SetSequence(*value) for value in read_sequences(connection, self._options.publication)]
