"""The reading side on SQLite: its own read-only connection, which sees one commit at a time."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from replicator.errors import Halted, Unavailable
from replicator.format.definition import Definition
from replicator.format.values import Stored, json_of, storage_from_text, stored_text
from replicator.pipeline.replicas.base import AppliedMark, Document, KeyedLine, SetSequence
from replicator.pipeline.replicas.keys import checked_key, checked_text, unknown_table
from replicator.pipeline.replicas.quarantine import QuarantineTable
from replicator.pipeline.replicas.sqlite import schema
from replicator.pipeline.replicas.sqlite.lines import LineReader
from replicator.pipeline.replicas.sqlite.replica import read_applied
from replicator.pipeline.replicas.sqlite.rows import PLACE_COLUMNS, quoted
from replicator.storage import sqlite
from replicator.storage.damage import FileDamage

FETCH_ROWS = 1000
COUNT_SECONDS = 2.0


class SqliteReader:
    """See ``base.Reader``. Raises Unavailable (``replica_missing``) while the file is not there, and Halted once it is
    known to be damaged; ``damage`` is told of it, and asked."""

    def __init__(self, path: Path | str, damage: FileDamage | None = None) -> None:
        self._path = Path(path)
        self._damage = damage
        self._definitions: dict[str, Definition] = {}
        self._definitions_number = -1  # of the last definition in the file when they were read
        if not self._path.exists():
            raise Unavailable(
                "replica_missing", "the replica is not there yet", place=str(path), cure="it comes with the first block"
            )
        self._connection = sqlite.connect(self._path, synchronous="NORMAL", read_only=True)
        self._lines = LineReader(self._connection)

    def close(self) -> None:
        self._connection.close()

    def snapshot(self) -> None:
        with self._translated():
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN")
                # BEGIN alone fixes nothing: a deferred transaction takes its snapshot with its first read.
                self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def release(self) -> None:
        with self._translated():
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def applied(self, strand: str) -> AppliedMark | None:
        with self._one_moment():
            return read_applied(self._connection, strand) if self._has_own_tables() else None

    def tables(self) -> list[Definition]:
        with self._one_moment():
            return sorted(self._current().values(), key=lambda definition: definition.label)

    def document(self, table: str, key: Sequence[str]) -> Document | None:
        with self._one_moment():
            definition = self._definition(table)
            parameters = self._key(definition, key)
            where = " AND ".join(f"{quoted(name)} = ?" for name in definition.key)
            found = self._documents(definition, where, parameters, 1)
        return found[0] if found else None

    def of_user(self, table: str, user: str, limit: int, after: Sequence[str] | None) -> list[Document]:
        with self._one_moment():
            definition = self._definition(table)
            if definition.user is None:
                return []
            (column,) = (column for column in definition.columns if column.name == definition.user)
            where = f"{quoted(definition.user)} = ?"
            parameters = [storage_from_text(column, checked_text(column, user))]
            if after is not None:
                names = ", ".join(quoted(name) for name in definition.key)
                where += f" AND ({names}) > ({', '.join('?' * len(definition.key))})"
                parameters += self._key(definition, after)
            return self._documents(definition, where, parameters, limit)

    def rows(self, table: str) -> Iterator[list[str | None]]:
        for cells, _ in self.placed_rows(table):
            yield cells

    def placed_rows(self, table: str) -> Iterator[tuple[list[str | None], tuple[int, int] | None]]:
        """As ``rows``; with (sequence, ordinal) where the table has no key."""
        with self._one_moment():
            definition = self._definition(table)
            readers = [stored_text(column) for column in definition.columns]
            places = "" if definition.key else f", {', '.join(PLACE_COLUMNS)}"
            cursor = self._connection.execute(f"SELECT {_columns(definition)}{places} FROM {quoted(definition.label)}")
            width = len(readers)
            while rows := cursor.fetchmany(FETCH_ROWS):
                for row in rows:
                    cells = [read(value) for read, value in zip(readers, row, strict=False)]
                    yield cells, (row[width], row[width + 1]) if places else None

    def missing(self) -> list[Definition]:
        """None: what the file does not have is refused when it is read."""
        return []

    def sequences(self) -> list[SetSequence]:
        """The values that were carried here."""
        with self._one_moment():
            if not self._has_own_tables():
                return []
            found = self._connection.execute("SELECT namespace, name, value, increment FROM _replicator_sequence")
            return [SetSequence(*row) for row in found]

    def about_rows(self, table: str) -> int | None:
        """The number of rows; None if counting takes longer than a moment."""
        end = time.monotonic() + COUNT_SECONDS
        self._connection.set_progress_handler(lambda: time.monotonic() > end, 100_000)
        try:
            with self._one_moment():
                counted = self._connection.execute(f"SELECT count(*) FROM {quoted(self._definition(table).label)}")
                return int(counted.fetchone()[0])
        except Halted:  # how an interrupt by the progress handler comes out of ``translated``
            return None
        finally:
            self._connection.set_progress_handler(None, 0)

    def lines(self, table: str) -> Iterator[list[KeyedLine]]:
        with self._one_moment():
            yield from self._lines.all(self._definition(table))

    def flaws(self) -> dict[str, str]:
        """None: what differs from the definitions is refused when it is read."""
        return {}

    def lines_of(self, table: str, keys: Sequence[Sequence[str]]) -> list[KeyedLine]:
        with self._one_moment():
            return self._lines.of_keys(self._definition(table), keys)

    def lines_placed(self, table: str, after: int, until: int) -> Iterator[list[KeyedLine]]:
        with self._one_moment():
            yield from self._lines.placed(self._definition(table), after, until)

    def quarantine(self) -> QuarantineTable:
        return QuarantineTable(self._quarantine_rows, f"{schema.OWN_PREFIX}quarantine", "?")

    def _quarantine_rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        with self._one_moment():
            there = "SELECT 1 FROM sqlite_master WHERE name = '_replicator_quarantine'"
            if self._connection.execute(there).fetchone() is None:
                return []
            return self._connection.execute(sql, parameters).fetchall()

    def _documents(
        self, definition: Definition, where: str, parameters: Sequence[Stored], limit: int
    ) -> list[Document]:
        order = ", ".join(quoted(name) for name in definition.key or ("_sequence", "_ordinal"))
        found = self._connection.execute(
            f"SELECT {_columns(definition)} FROM {quoted(definition.label)} WHERE {where} ORDER BY {order} LIMIT ?",
            [*parameters, limit],
        ).fetchall()
        return [_document(definition, row) for row in found]

    def _key(self, definition: Definition, key: Sequence[str]) -> list[Stored]:
        return [storage_from_text(column, text) for column, text in checked_key(definition, key)]

    def _definition(self, table: str) -> Definition:
        definition = self._current().get(table)
        if definition is None:
            raise unknown_table(table)
        return definition

    def _current(self) -> dict[str, Definition]:
        """The definitions as this reader sees them now; read anew only if one was written."""
        if not self._has_own_tables():
            return {}
        number = self._connection.execute("SELECT coalesce(max(number), 0) FROM _replicator_definition").fetchone()[0]
        if number != self._definitions_number:
            self._definitions = schema.current_definitions(self._connection)
            self._definitions_number = number
        return self._definitions

    def _has_own_tables(self) -> bool:
        sql = "SELECT 1 FROM sqlite_master WHERE name = '_replicator_definition'"
        return self._connection.execute(sql).fetchone() is not None

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        if self._damage is None:
            return sqlite.translated(self._path)
        self._damage.check(self._path)  # a page that was read well says nothing of the others
        return sqlite.translated(self._path, on_damage=self._damage.found)

    @contextlib.contextmanager
    def _one_moment(self) -> Iterator[None]:
        """Everything read within belongs to one commit, with or without ``snapshot``."""
        with self._translated():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                with contextlib.suppress(sqlite3.ProgrammingError):  # a generator may outlive the reader's close
                    self._connection.execute("ROLLBACK")


def _columns(definition: Definition) -> str:
    return ", ".join(quoted(column.name) for column in definition.columns)


def _document(definition: Definition, row: Sequence[Stored]) -> Document:
    values = {}
    for column, value in zip(definition.columns, row, strict=True):
        text = stored_text(column)(value)
        values[column.name] = None if text is None else json_of(column)(text)
    return Document(definition, {name: values[name] for name in definition.key}, values)
