"""How far a PostgreSQL replica is on its server's disk.

Commits do not wait for the disk, so a server that crashes may come back earlier than readers have seen; the journal
must keep what it would replay then. Guarantee: the position given was on disk. The idea: a position that was seen
before the log ended at some place is durable once the log is flushed up to that place. Nothing is written; the server's
log writer flushes within a second.
"""

from __future__ import annotations

import contextlib

import psycopg

from replicator.errors import ReplicatorError
from replicator.pipeline.replicas.postgres.replica import read_applied
from replicator.postgres.catalog import exists
from replicator.postgres.errors import REPLICA
from replicator.postgres.session import Connection, Database
from replicator.postgres.settings import READ_ONLY

_SETTINGS = {**READ_ONLY, "statement_timeout": "5s", "lock_timeout": "5s"}


class PostgresDurable:
    """Asks one database, now and then, on a connection of its own."""

    def __init__(self, dsn: str, strand: str) -> None:
        self._database = Database(dsn, REPLICA)
        self._strand = strand
        self._connection: Connection | None = None
        self._seen: tuple[int, str] | None = None  # a sequence, and where the log ended then
        self._durable = 0

    def sequence(self) -> int:
        """The sequence up to which the replica will never ask again; what was known last if it does not answer.
        Blocks."""
        try:
            self._look()
        except ReplicatorError:
            self._close()
        return self._durable

    def _look(self) -> None:
        if self._connection is None:
            self._connection = self._database.connect(_SETTINGS)
        with self._database.translated():
            if self._seen is not None:
                sequence, end = self._seen
                (flushed,) = self._one("SELECT pg_current_wal_flush_lsn() >= %s::pg_lsn", [end])
                if flushed:
                    self._durable, self._seen = max(self._durable, sequence), None
            if self._seen is None and exists(self._connection, "replicator.position"):
                applied = read_applied(self._connection, self._strand)
                (now,) = self._one("SELECT pg_current_wal_insert_lsn()::text", [])
                if applied is not None and applied.position.sequence > self._durable:
                    self._seen = applied.position.sequence, str(now)

    def _one(self, query: str, parameters: list[str]) -> tuple[object, ...]:
        assert self._connection is not None
        row = self._connection.execute(query.encode(), parameters).fetchone()
        assert row is not None
        return tuple(row)

    def _close(self) -> None:
        connection, self._connection, self._seen = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
