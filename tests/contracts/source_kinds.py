"""Every kind of source with a ledger of its own to write to: what the contract suite needs of each.

To add a source: a class here with these methods, named in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import psycopg

from replicator.pipeline.sources.base import Source
from replicator.pipeline.sources.postgres import PostgresOptions, PostgresSource
from replicator.postgres.lsn import parse_lsn


class SourceKind(Protocol):
    """A ledger with one table, ``event (id, note)``, and its source."""

    def source(self) -> Source:
        """A new source, as after a restart."""

    def write(self, first: int, last: int) -> None:
        """A committed transaction that inserts these ids."""

    def is_kept(self, origin: str) -> bool:
        """Whether the ledger still keeps everything behind ``origin`` for the source."""

    def close(self) -> None:
        """Let go of the ledger."""


class PostgresKind:
    """A PostgreSQL database."""

    def __init__(self, new_database: Callable[[], str]) -> None:
        dsn = new_database()
        self._sql = psycopg.connect(dsn, autocommit=True)
        self._sql.execute("CREATE TABLE event (id int PRIMARY KEY, note text)")
        self._slot = self._sql.info.dbname
        self._options = PostgresOptions(dsn=dsn, slot=self._slot, heartbeat_seconds=0.1, sequence_seconds=0)

    def source(self) -> Source:
        return PostgresSource(self._options)

    def write(self, first: int, last: int) -> None:
        self._sql.execute("INSERT INTO event SELECT n, 'note ' || n FROM generate_series(%s::int, %s) n", [first, last])

    def is_kept(self, origin: str) -> bool:
        query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
        row = self._sql.execute(query, [self._slot]).fetchone()
        assert row is not None
        return parse_lsn(row[0]) <= parse_lsn(origin)

    def close(self) -> None:
        self._sql.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active",
            [self._slot],
        )
        self._sql.close()


KINDS: dict[str, Callable[[Callable[[], str]], SourceKind]] = {"postgres": PostgresKind}
