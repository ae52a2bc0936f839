"""The writing side on PostgreSQL: one session, one transaction at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from replicator.errors import Halted, Unavailable
from replicator.format.definition import Definition, unpack_definition
from replicator.format.keys import key_reader
from replicator.format.position import Position
from replicator.pipeline.replicas.base import Append, AppliedMark, Define, SetSequence, Step, TableChange, Truncate
from replicator.pipeline.replicas.postgres import bulk, comparisons, few, schema, sequences, user_schema
from replicator.pipeline.replicas.postgres.bulk import BulkRows, with_places
from replicator.pipeline.replicas.postgres.few import FewRows, is_few
from replicator.pipeline.replicas.postgres.rows import PostgresRows
from replicator.pipeline.replicas.quarantine import QuarantineTable
from replicator.pipeline.replicas.shape import VERSION_FALLS, version_falls
from replicator.postgres.errors import REPLICA
from replicator.postgres.locks import WRITER_LOCK
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Connection, Database
from replicator.postgres.settings import WRITER

_SETTINGS = {
    **WRITER,
    **bulk.SETTINGS,
    "synchronous_commit": "off",
    "lock_timeout": "5s",
    "statement_timeout": "15min",
    "idle_in_transaction_session_timeout": "15min",
}
_DELETE_LIMIT_BYTES = 256 << 20
LOOK_SECONDS = 5.0
# How many locks this session holds, and half of what the server is configured to hold.
_LOCKS = """
SELECT (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()), current_setting('max_locks_per_transaction')::int
     * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) / 2
"""
_WHICH = "SELECT current_database(), system_identifier FROM pg_control_system()"
_MADE_HERE = ("428C9", "42P10")  # a column was written that the database makes by itself: since when, if not before?

LOOK_ROWS = 1000


class _WritableTable:
    """A definition's SQL and the two ways of writing by it."""

    def __init__(self, connection: Connection, definition: Definition, number: int) -> None:
        self.definition = definition
        self.rows = PostgresRows(
            definition,
            schema.column_types(connection, definition),
            number,
            user_schema.generated_columns(connection, definition),
            partitioned=user_schema.is_partitioned(connection, definition),
            operators=comparisons.operators(connection, definition),
        )
        self.always = user_schema.always_identities(connection, definition)
        if set(self.always) - set(definition.key):  # an UPDATE sets them; those of the key only where a key changes
            self.ease(connection)
        self.few = FewRows(connection, self.rows)
        self.bulk = BulkRows(connection, self.rows)

    def ease(self, connection: Connection) -> None:
        """Let an UPDATE set every column."""
        if self.always:
            user_schema.ease_identities(connection, self.definition, self.always)
            self.always = []


def _which(connection: Connection) -> str | None:
    """Which database of which server this is, by what no copy by SQL has; None where the server does not tell."""
    try:
        row = connection.execute(_WHICH).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    assert row is not None
    return f"database {row[0]} of server {row[1]}"


class PostgresReplica:
    """See ``base.Replica``. ``drifted_rows`` counts since the replica was made, committed transactions only."""

    def __init__(self, dsn: str, recognise: Callable[[str, str], None] | None = None) -> None:
        """``recognise`` hears which database it is, and its place, before anything is written; it may raise Halted."""
        self._database = Database(dsn, REPLICA)
        self._recognise = recognise
        self._connection: Connection | None = None
        self._tables: dict[int, _WritableTable] = {}
        self._made = 0
        self._drifted_now = 0
        self._is_silent = False
        self._silent_at = 0.0
        self._looked_anew = False
        self.drifted_rows = 0

    @property
    def _open(self) -> Connection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    def open(self) -> None:
        self.close()
        connection = self._database.connect(_SETTINGS)
        try:
            with self._database.translated():
                if self._recognise is not None and (which := _which(connection)) is not None:
                    self._recognise(which, self._database.place)
                few.prepare(connection)
                self._lock(connection)
                schema.create_own_tables(connection)
                self._is_silent = user_schema.silence(connection)
                self._silent_at = time.monotonic()
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _lock(self, connection: Connection) -> None:
        """Waits as long as any lock may take: a former session of ours may need a moment to end."""
        try:
            connection.execute("SELECT pg_advisory_lock(%s)", [WRITER_LOCK])
        except psycopg.errors.LockNotAvailable as error:
            raise Unavailable(
                "replica_in_use",
                "another session writes to this replica: a second sidecar, or this one's former session, still ending",
                place=self._database.place,
                cure="stop the other sidecar; a former session ends by itself",
            ) from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._tables.clear()
        self._drifted_now = 0
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def applied(self, strand: str) -> AppliedMark | None:
        with self._database.translated():
            return read_applied(self._open, strand)

    def definitions(self, strand: str) -> dict[int, Definition]:
        with self._database.translated():
            sql = "SELECT relation, definition FROM replicator.definition WHERE strand = %s"
            return {relation: unpack_definition(data) for relation, data in self._open.execute(sql, [strand])}

    def begin(self) -> None:
        self._drifted_now = 0
        with self._database.translated():
            self._look_for_triggers()
            self._open.execute("BEGIN")
        for table in self._tables.values():
            table.bulk.transaction_begins()

    def _look_for_triggers(self) -> None:
        """Every so often: somebody may have made one since."""
        if time.monotonic() - self._silent_at > LOOK_SECONDS:
            user_schema.check_silent(self._open, self._is_silent)
            self._silent_at = time.monotonic()

    def divide(self) -> None:
        """A table that is made or written to takes several of the server's locks until the transaction ends."""
        ((locks, most),) = self._run(_LOCKS)
        if locks > most:
            self._run("COMMIT")
            self.begin()

    def rollback(self) -> None:
        self._drifted_now = 0
        self._undo("ROLLBACK")

    def _undo(self, rollback: str) -> None:
        """Staging tables and definitions made since are gone with it; those from before would stay without a name."""
        has_stage = any(table.bulk.stages for table in self._tables.values())
        self._tables.clear()
        self._run(rollback)
        if has_stage:
            self._run("DISCARD TEMP")

    def harden(self) -> None:
        self._run("SET synchronous_commit = local")  # on its own disk: the standby that ``on`` waits for may be us

    def undefine(self, strand: str, relation: int) -> None:
        self._tables.clear()
        with self._database.translated():
            schema.undefine(self._open, strand, relation)

    def attempt(self, strand: str, steps: Sequence[Step]) -> None:
        drifted, tables = self._drifted_now, dict(self._tables)
        stages = {key: table.bulk.stages for key, table in tables.items()}
        self._run("SAVEPOINT attempt")
        self._run("SET CONSTRAINTS ALL DEFERRED")
        try:
            self.apply(strand, steps)
            self._run("SET CONSTRAINTS ALL IMMEDIATE")
        except Halted:
            self._drifted_now = drifted
            if any(isinstance(step, Define) for step in steps):
                self._undo("ROLLBACK TO attempt")
            else:  # what was known of the tables before is still true
                self._run("ROLLBACK TO attempt")
                self._tables = tables
                for key, made in stages.items():
                    tables[key].bulk.back_to(made)
            self._run("RELEASE attempt")
            raise
        self._run("RELEASE attempt")

    def quarantine(self) -> QuarantineTable:
        return QuarantineTable(self._run, "replicator.quarantine", "%s")

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._database.translated():
            cursor = self._open.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def commit(self, applied: AppliedMark) -> None:
        strand, epoch, sequence, digest = applied.position
        with self._database.translated():
            with self._open.pipeline():
                self._open.execute(
                    "INSERT INTO replicator.position VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (strand) DO UPDATE SET"
                    " epoch = excluded.epoch, sequence = excluded.sequence, hash = excluded.hash,"
                    " committed_at = excluded.committed_at, blocks = excluded.blocks",
                    (strand, epoch, sequence, digest, applied.committed_at, applied.blocks),
                )
                committed = self._open.execute("COMMIT")
            assert committed.statusmessage == "COMMIT", "a transaction that failed was committed"
        self.drifted_rows += self._drifted_now
        self._drifted_now = 0
        self._looked_anew = False

    def forget(self, strand: str) -> None:
        with self._database.translated():
            self._open.execute("DELETE FROM replicator.position WHERE strand = %s", [strand])

    def apply(self, strand: str, steps: Sequence[Step]) -> None:
        try:
            self._apply(strand, steps)
        except Halted as error:
            if getattr(error.__cause__, "sqlstate", None) not in _MADE_HERE or self._looked_anew:
                raise
            self._looked_anew = True
            raise Unavailable(
                "replica_table_changed",
                f"a table is not as it was when it was looked at: {error.message}",
                place=error.place,
                cure="it is looked at anew, and goes on by itself if it can",
            ) from error

    def _apply(self, strand: str, steps: Sequence[Step]) -> None:
        with self._database.translated():
            for step in steps:
                match step:
                    case TableChange():
                        self._change(step)
                    case Append():
                        self._append(step)
                    case Define(relation, definition):
                        self._tables.clear()
                        schema.define(self._open, strand, relation, definition)
                    case Truncate(definition):
                        self._truncate(definition)
                    case SetSequence():
                        sequences.advance(self._open, step)

    def stored(self, definition: Definition, keys: Sequence[bytes]) -> list[list[str | None] | None]:
        with self._database.translated():
            return self._table(definition).few.stored(keys)

    def stored_keys(self, definition: Definition, after: bytes | None, limit: int) -> list[bytes]:
        with self._database.translated():
            return self._table(definition).few.stored_keys(after, limit)

    def _table(self, definition: Definition) -> _WritableTable:
        table = self._tables.get(id(definition))
        if table is None or table.definition is not definition:
            self._made += 1
            table = self._tables[id(definition)] = _WritableTable(self._open, definition, self._made)
        return table

    def _change(self, change: TableChange) -> None:
        table = self._table(change.definition)
        if change.deletes:
            way = table.few if is_few(change.deletes) else table.bulk
            self._drifted_now += way.delete(change.deletes)
        if change.moves:
            table.ease(self._open)
        for key, image in change.moves:
            self._drifted_now += table.few.move(key, image)
        if change.patches:
            table.few.patch(change.patches)
        try:
            if change.inserts:
                self._drifted_now += self._insert(table, change.inserts)
            if change.updates:
                self._drifted_now += self._update(table, change.updates)
        except Halted as error:
            if error.reason != VERSION_FALLS:
                raise
            raise self._version_falls(table, [*change.inserts, *change.updates]) from error

    def _version_falls(self, table: _WritableTable, images: Sequence[bytes]) -> Halted:
        """The halt, which names the first such key. The version is a row's last column."""
        definition = table.definition
        key_of, at = key_reader(definition), [column.name for column in definition.columns].index("version")
        for first in range(0, len(images), LOOK_ROWS):
            some = images[first : first + LOOK_ROWS]
            for image, stored in zip(some, table.few.stored([key_of(image) for image in some]), strict=True):
                if stored is not None and int(stored[at] or 0) > int.from_bytes(image[-8:], "big", signed=True):
                    return version_falls(definition, [stored[place] or "" for place in definition.key_places])
        return version_falls(definition)

    def _insert(self, table: _WritableTable, images: Sequence[bytes]) -> int:
        drifted = len(images) - table.few.upsert(images) if is_few(images) else table.bulk.insert(images)
        return drifted if table.rows.tells else 0

    def _update(self, table: _WritableTable, images: Sequence[bytes]) -> int:
        if is_few(images):
            return table.few.upsert(images)
        return table.bulk.update(images)

    def _append(self, step: Append) -> None:
        table = self._table(step.definition)
        if is_few(step.rows):
            self._drifted_now += len(step.rows) - table.few.upsert(step.rows, step.places)
        else:
            self._drifted_now += table.bulk.insert(with_places(step.rows, step.places))

    def _truncate(self, definition: Definition) -> None:
        """By DELETE, which readers with an older snapshot do not see; by TRUNCATE, which they do, where a DELETE would
        take minutes."""
        name = quoted(*definition.name)
        if user_schema.lacks_places(self._open, definition):
            # A published table whose rows nothing tells apart in the log takes no DELETE at all.
            self._open.execute(f"TRUNCATE {name}".encode())
            return
        answer = self._open.execute("SELECT pg_table_size(%s::regclass)", [name]).fetchone()
        large = (
            answer is not None and answer[0] > _DELETE_LIMIT_BYTES and not user_schema.is_referenced(self._open, name)
        )
        self._open.execute(f"{'TRUNCATE' if large else 'DELETE FROM'} {name}".encode())


def read_applied(connection: Connection, strand: str) -> AppliedMark | None:
    """The stored position of a strand."""
    found = connection.execute(
        "SELECT epoch, sequence, hash, committed_at, blocks FROM replicator.position WHERE strand = %s", [strand]
    ).fetchone()
    return None if found is None else AppliedMark(Position(strand, *found[:3]), found[3], found[4])
