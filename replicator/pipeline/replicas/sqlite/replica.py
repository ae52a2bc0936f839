"""The writing side on SQLite: one transaction at a time, statements by the thousand.

Row for row there is one decode and one bound statement. Who else wrote to a table is seen by counting: an UPDATE that
finds fewer rows than it was given, an INSERT that meets a row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from replicator.errors import Corrupt, Halted
from replicator.format.definition import Definition, unpack_definition
from replicator.format.position import Position
from replicator.format.values import Stored
from replicator.pipeline.replicas.base import Append, AppliedMark, Define, SetSequence, Step, TableChange, Truncate
from replicator.pipeline.replicas.quarantine import QuarantineTable
from replicator.pipeline.replicas.shape import version_falls
from replicator.pipeline.replicas.sqlite import schema
from replicator.pipeline.replicas.sqlite.rows import SqliteRows
from replicator.storage import sqlite

CACHE_KIB = 32 * 1024  # SQLite's own 2 MB spill within a batch: measured, half the rate
CHECKPOINT_PAGES = 10_000  # 40 MB of log; a page that changes often is then written back once for many commits


class SqliteReplica:
    """See ``base.Replica``. ``drifted_rows`` counts since the replica was made, committed transactions only."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._rows: dict[int, SqliteRows] = {}
        self._drifted_now = 0
        self.drifted_rows = 0

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    def open(self) -> None:
        self.close()
        with sqlite.translated(self._path):
            connection = sqlite.connect(self._path, synchronous="NORMAL")
            try:
                connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
                schema.create_own_tables(connection)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._rows.clear()
        self._drifted_now = 0
        if connection is not None:
            connection.close()  # an open transaction is rolled back

    def applied(self, strand: str) -> AppliedMark | None:
        with sqlite.translated(self._path):
            return read_applied(self._open, strand)

    def definitions(self, strand: str) -> dict[int, Definition]:
        with sqlite.translated(self._path):
            rows = self._open.execute(
                "SELECT relation, definition FROM _replicator_definition WHERE strand = ?", [strand]
            )
            return {relation: unpack_definition(data) for relation, data in rows}

    def begin(self) -> None:
        self._drifted_now = 0
        with sqlite.translated(self._path):
            self._open.execute("BEGIN IMMEDIATE")

    def divide(self) -> None:
        """One transaction holds as many tables as there are."""

    def rollback(self) -> None:
        self._drifted_now = 0
        self._rows.clear()  # what was defined in the transaction is gone
        with sqlite.translated(self._path):
            if self._open.in_transaction:
                self._open.execute("ROLLBACK")

    def commit(self, applied: AppliedMark) -> None:
        strand, epoch, sequence, digest = applied.position
        with sqlite.translated(self._path):
            self._open.execute(
                "INSERT OR REPLACE INTO _replicator_position VALUES (?, ?, ?, ?, ?, ?)",
                (strand, epoch, sequence, digest, applied.committed_at, applied.blocks),
            )
            self._open.execute("COMMIT")
        # Only now: what was counted in a transaction that is undone will be counted again.
        self.drifted_rows += self._drifted_now
        self._drifted_now = 0

    def forget(self, strand: str) -> None:
        with sqlite.translated(self._path):
            self._open.execute("DELETE FROM _replicator_position WHERE strand = ?", [strand])

    def apply(self, strand: str, steps: Sequence[Step]) -> None:
        with sqlite.translated(self._path):
            for step in steps:
                try:
                    self._apply(strand, step)
                except OverflowError as error:  # sqlite3 binds whole numbers of 64 bits
                    place = f"replica {self._path}"
                    cure = "verify the journal; report it if the journal is whole"
                    raise Corrupt("bad_row", f"a number is too large: {error}", place=place, cure=cure) from error
                except (sqlite3.IntegrityError, sqlite3.DataError) as error:
                    raise _refused_row(step, error) from error

    def harden(self) -> None:
        with sqlite.translated(self._path):
            self._open.execute("PRAGMA synchronous = FULL")

    def undefine(self, strand: str, relation: int) -> None:
        self._rows.clear()
        with sqlite.translated(self._path):
            schema.undefine(self._open, strand, relation)

    def attempt(self, strand: str, steps: Sequence[Step]) -> None:
        drifted = self._drifted_now
        self._run("SAVEPOINT attempt")
        try:
            self.apply(strand, steps)
        except Halted as error:
            self._drifted_now = drifted
            self._rows.clear()  # what was defined in the attempt is gone
            # RAISE(ROLLBACK) in a trigger ends the whole transaction. What was applied before the attempt is undone,
            # too: to go on would be to lose it.
            if not self._open.in_transaction:
                raise _rolled_back(self._path, error) from error
            self._run("ROLLBACK TO attempt")
            self._run("RELEASE attempt")
            raise
        self._run("RELEASE attempt")

    def quarantine(self) -> QuarantineTable:
        return QuarantineTable(self._run, f"{schema.OWN_PREFIX}quarantine", "?")

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with sqlite.translated(self._path):
            return self._open.execute(sql, parameters).fetchall()

    def _apply(self, strand: str, step: Step) -> None:
        match step:
            case TableChange():
                self._change(step)
            case Append(definition):
                rows = self._rows_of(definition).rows(step.rows)
                for row, place in zip(rows, step.places, strict=True):
                    row.extend(place)
                self._insert(definition, rows)
            case Define(relation, definition):
                self._rows.clear()
                schema.define(self._open, strand, relation, definition)
            case Truncate(definition):
                self._open.execute(f"DELETE FROM {self._rows_of(definition).table}")
            case SetSequence():
                self._set_sequence(step)

    def stored(self, definition: Definition, keys: Sequence[bytes]) -> list[list[str | None] | None]:
        rows = self._rows_of(definition)
        with sqlite.translated(self._path):
            stored = [self._open.execute(rows.select, key).fetchone() for key in rows.keys(keys)]
        return [None if row is None else rows.texts(row) for row in stored]

    def stored_keys(self, definition: Definition, after: bytes | None, limit: int) -> list[bytes]:
        rows = self._rows_of(definition)
        parameters = rows.keys([after])[0] if after is not None else []
        with sqlite.translated(self._path):
            keys = self._open.execute(rows.select_keys(behind=after is not None), [*parameters, limit]).fetchall()
        return [rows.key_image(key) for key in keys]

    def _rows_of(self, definition: Definition) -> SqliteRows:
        # By identity: to compare two definitions costs more than to write a small batch. What is kept here keeps its
        # definition alive, so the number is nobody else's.
        rows = self._rows.get(id(definition))
        if rows is None:
            rows = self._rows[id(definition)] = SqliteRows(definition)
        return rows

    def _change(self, change: TableChange) -> None:
        rows = self._rows_of(change.definition)
        if change.deletes:
            gone = self._open.executemany(rows.delete, rows.keys(change.deletes)).rowcount
            self._drifted_now += len(change.deletes) - gone
        for key, image in change.moves:
            self._move(rows, key, image)
        if change.patches:
            self._patch(rows, change.patches)
        if change.inserts:
            self._insert(change.definition, rows.rows(change.inserts))
        if change.updates:
            self._update(rows, rows.rows(change.updates))

    def _move(self, rows: SqliteRows, key: bytes, image: bytes) -> None:
        """Whoever holds the new key is not known to the source, else the planner would have moved it away first."""
        places, row = rows.patch(image)
        (before,) = rows.keys([key])
        new_key = [row[place] for place in rows.definition.key_places]
        if new_key != before:
            self._drifted_now += self._open.execute(rows.delete, new_key).rowcount
        parameters = [*(row[place] for place in places), *before]
        if self._open.execute(rows.update_of(places), parameters).rowcount != 1:
            raise _row_missing(rows.definition, before)

    def _patch(self, rows: SqliteRows, images: Sequence[bytes]) -> None:
        for image in images:
            places, row = rows.patch(image)
            key_places = rows.definition.key_places
            changed = [place for place in places if place not in key_places]
            key = [row[place] for place in key_places]
            parameters = [*(row[place] for place in changed), *key]
            if changed and self._open.execute(rows.update_of(changed), parameters).rowcount != 1:
                raise _row_missing(rows.definition, key)

    def _insert(self, definition: Definition, rows: list[list[Stored]]) -> None:
        """Insert; if some row is there already, do it again in the way that counts them and ends with ours."""
        sql = self._rows_of(definition)
        self._open.execute("SAVEPOINT inserts")  # an error undoes its own statement only, not those before it
        try:
            self._insert_new(sql, rows)
        except sqlite3.IntegrityError as error:
            # Only a row under the same key is ours to replace. Any other constraint refuses the row.
            if error.sqlite_errorcode not in (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID):
                raise
            self._open.execute("ROLLBACK TO inserts")
            fresh = self._open.executemany(sql.insert_missing, rows).rowcount
            self._drifted_now += len(rows) - fresh
            if sql.upsert:
                written = self._open.executemany(sql.upsert, rows).rowcount
                if definition.documents and written != len(rows):
                    raise self._version_falls(sql, rows) from None
        self._open.execute("RELEASE inserts")

    def _insert_new(self, sql: SqliteRows, rows: list[list[Stored]]) -> None:
        """Some rows a statement: sqlite3 lets other threads run during each, and on a busy sidecar it is milliseconds
        until it may go on. Without any other thread this saves a third, too."""
        whole = len(rows) // sql.together * sql.together
        groups = (rows[at : at + sql.together] for at in range(0, whole, sql.together))
        self._open.executemany(sql.insert_together, (list(chain.from_iterable(group)) for group in groups))
        self._open.executemany(sql.insert, rows[whole:])

    def _update(self, sql: SqliteRows, rows: list[list[Stored]]) -> None:
        """Update; if some row is not there, insert what is missing and count it."""
        updated = self._open.executemany(sql.update, rows).rowcount if sql.update else 0
        if updated != len(rows):
            missing = self._open.executemany(sql.insert_missing, rows).rowcount
            self._drifted_now += missing
            if sql.definition.documents and updated + missing != len(rows):
                raise self._version_falls(sql, rows)

    def _version_falls(self, sql: SqliteRows, rows: list[list[Stored]]) -> Halted:
        """The halt, which names the first such key."""
        at = sql.names.index("version")
        for row in rows:
            key = [row[place] for place in sql.definition.key_places]
            stored = self._open.execute(sql.select, key).fetchone()
            if stored is not None and list(stored) != row and stored[at] >= row[at]:
                return version_falls(sql.definition, [str(value) for value in key])
        return version_falls(sql.definition)

    def _set_sequence(self, step: SetSequence) -> None:
        """SQLite has no sequences; the value is kept for whoever promotes this region. It never goes back."""
        forward = ">" if step.increment > 0 else "<"
        self._open.execute(
            "INSERT INTO _replicator_sequence VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE"
            f" SET value = excluded.value, increment = excluded.increment WHERE excluded.value {forward} value",
            step,
        )


def read_applied(connection: sqlite3.Connection, strand: str) -> AppliedMark | None:
    """The stored position of a strand, None if there is none."""
    row = connection.execute(
        "SELECT strand, epoch, sequence, hash, committed_at, blocks FROM _replicator_position WHERE strand = ?",
        [strand],
    ).fetchone()
    return None if row is None else AppliedMark(Position(*row[:4]), row[4], row[5])


def _refused_row(step: Step, error: sqlite3.Error) -> Halted:
    table = "" if isinstance(step, SetSequence) else f"table {step.definition.label}"
    return Halted(
        "replica_refused_row",
        f"SQLite refuses a row: {error}",
        place=table,
        cure="drop the constraint or the trigger from the replica: the primary has checked its own",
    )


def _rolled_back(path: Path, error: Halted) -> Halted:
    return Halted(
        "replica_rolled_back",
        f"a trigger of the replica ends the whole transaction, not only its statement: {error.message}",
        place=error.place or f"replica {path}",
        cure="let it RAISE(ABORT) instead of RAISE(ROLLBACK), or drop it",
    )


def _row_missing(definition: Definition, key: Sequence[Stored]) -> Halted:
    return Halted(
        "replica_row_missing",
        "a row that the source changed in part is not in the replica, so its other columns are not known",
        place=f"table {definition.label}, key {key!r:.200}",
        cure="somebody else wrote to the replica: replicator repair CONFIG --key TABLE KEY --apply sets it right;"
        " then start the sidecar anew",
    )
