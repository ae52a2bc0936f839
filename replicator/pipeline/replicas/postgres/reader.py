"""The reading side on PostgreSQL: on a replica, or with given definitions on any database, such as a primary.

Values are taken as the text that the server prints, so they are canonical whatever a driver would make of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg

from replicator.errors import Rejected, Unavailable
from replicator.format.definition import Definition
from replicator.format.values import json_of
from replicator.pipeline.replicas.base import AppliedMark, Document, KeyedLine, SetSequence
from replicator.pipeline.replicas.keys import checked_key, checked_text, unknown_table
from replicator.pipeline.replicas.postgres import few, flaws, lines, schema
from replicator.pipeline.replicas.postgres.comparisons import behind, equal, operators
from replicator.pipeline.replicas.postgres.few import TextValue, texts_of
from replicator.pipeline.replicas.postgres.replica import read_applied
from replicator.pipeline.replicas.postgres.rows import PLACE_COLUMNS
from replicator.pipeline.replicas.postgres.scan import TableScan
from replicator.pipeline.replicas.quarantine import QuarantineTable
from replicator.postgres.catalog import exists
from replicator.postgres.errors import REPLICA
from replicator.postgres.quoting import listed, quoted
from replicator.postgres.session import Database
from replicator.postgres.settings import READ_ONLY

FETCH_ROWS = 2000
_SETTINGS = {**READ_ONLY, "statement_timeout": "30s", "lock_timeout": "5s"}


class PostgresReader:
    """See ``base.Reader``. With ``definitions`` it reads those tables of a database that is no replica: then
    ``applied`` is None. With ``locking``, ``snapshot`` also keeps every table as it is: to older snapshots a table that
    is rewritten or truncated looks empty, so such statements then wait until ``close``."""

    def __init__(self, dsn: str, definitions: Mapping[int, Definition] | None = None, *, locking: bool = False) -> None:
        self._locking = locking
        self._database = Database(dsn, REPLICA)
        self._given = None if definitions is None else {table.name: table for table in definitions.values()}
        self._publication: str | None = None
        self._missing: list[Definition] = []
        self._has_own_tables = False
        self._fixed = False
        self._cursors = 0
        self._number = -1
        self._definitions: dict[str, Definition] = {}
        self._connection = self._database.connect(_SETTINGS)
        few.prepare(self._connection)

    def read_by(self, definitions: Mapping[int, Definition], publication: str | None = None) -> None:
        """From here on, read these tables, as far as the database has them. Of a database that is no replica; its
        ``publication`` says what blocks are made of."""
        found = {table.name: table for _, table in sorted(definitions.items())}
        self._publication = publication
        with self._one_moment():
            self._given = {
                name: table for name, table in found.items() if exists(self._connection, quoted(*table.name))
            }
        self._missing = [table for name, table in found.items() if name not in self._given]

    def missing(self) -> list[Definition]:
        """The tables that ``read_by`` was to read and that the database does not have (any more)."""
        return self._missing

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.close()

    def snapshot(self) -> None:
        with self._database.translated():
            if not self._in_transaction():
                if self._locking and self._given is not None:  # what was dropped cannot be locked
                    self.read_by(dict(enumerate(self._given.values())))
                tables = [quoted(*definition.name) for definition in self.tables()] if self._locking else []
                self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                if tables:  # before the first look, so that what is seen is what is locked
                    self._execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                    self._execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE")
                self._connection.execute("SELECT 1")  # the first statement fixes what is seen
                self._fixed = True
                if self._locking and tables != [quoted(*definition.name) for definition in self.tables()]:
                    cure = "it is tried again"
                    raise Unavailable(
                        "tables_changed", "a table was just defined", place=self._database.place, cure=cure
                    )

    def release(self) -> None:
        with self._database.translated():
            if self._in_transaction():
                self._connection.execute("ROLLBACK")
            self._fixed = False

    def visible(self) -> tuple[str, str]:
        """Within ``snapshot``: which transactions it sees, as pg_snapshot's text, and an LSN before which all of those
        end."""
        with self._database.translated():
            found = self._connection.execute(
                "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text"
            ).fetchone()
        assert found is not None
        return found[0], found[1]

    def applied(self, strand: str) -> AppliedMark | None:
        with self._one_moment():
            return read_applied(self._connection, strand) if self._is_replica() else None

    def tables(self) -> list[Definition]:
        with self._one_moment():
            return sorted(self._current().values(), key=lambda definition: definition.label)

    def document(self, table: str, key: Sequence[str]) -> Document | None:
        with self._one_moment():
            definition = self._definition(table)
            by_column = operators(self._connection, definition)
            where = " AND ".join(
                f"{quoted(name)} {equal(by_column, name)} ${number}" for number, name in enumerate(definition.key, 1)
            )
            found = self._documents(definition, where, _key(definition, key), 1)
        return found[0] if found else None

    def of_user(self, table: str, user: str, limit: int, after: Sequence[str] | None) -> list[Document]:
        with self._one_moment():
            definition = self._definition(table)
            if definition.user is None:
                return []
            (column,) = (column for column in definition.columns if column.name == definition.user)
            by_column = operators(self._connection, definition)
            where = f"{quoted(definition.user)} {equal(by_column, definition.user)} $1"
            parameters = [TextValue(checked_text(column, user).encode())]
            if after is not None:
                parameters += _key(definition, after)
                marks = [f"${number}" for number in range(2, len(parameters) + 1)]
                where += f" AND {behind(by_column, definition.key, marks)}"
            return self._documents(definition, where, parameters, limit)

    def rows(self, table: str) -> Iterator[list[str | None]]:
        with self._one_moment():
            definition = self._definition(table)
            names = listed([column.name for column in definition.columns])
            table = lines.own_rows(self._connection, definition)
            self._cursors += 1
            cursor = f"replicator_rows_{self._cursors}"
            self._execute(f"DECLARE {cursor} NO SCROLL CURSOR FOR SELECT {names} FROM {table}")
            while rows := texts_of(self._execute(f"FETCH {FETCH_ROWS} FROM {cursor}")):
                yield from rows
            self._execute(f"CLOSE {cursor}")

    def placed_rows(self, table: str) -> Iterator[tuple[list[str | None], tuple[int, int] | None]]:
        """As ``rows``; with (sequence, ordinal) where a replica's table has no key."""
        with self._one_moment():
            definition = self._definition(table)
            has_places = not definition.key and self._given is None
            names = [column.name for column in definition.columns] + list(PLACE_COLUMNS if has_places else ())
            self._cursors += 1
            cursor = f"replicator_rows_{self._cursors}"
            selected = f"SELECT {listed(names)} FROM {quoted(*definition.name)}"
            self._execute(f"DECLARE {cursor} NO SCROLL CURSOR FOR {selected}")
            while rows := texts_of(self._execute(f"FETCH {FETCH_ROWS} FROM {cursor}")):
                for row in rows:
                    yield (row[:-2], (int(row[-2] or 0), int(row[-1] or 0))) if has_places else (row, None)
            self._execute(f"CLOSE {cursor}")

    def sequences(self) -> list[SetSequence]:
        """The values that were carried to this replica."""
        with self._one_moment():
            if not self._is_replica():
                return []
            found = self._execute("SELECT namespace, name, value, increment FROM replicator.sequence")
            return [SetSequence(*row) for row in found]

    def about_rows(self, table: str) -> int | None:
        """What the planner expects."""
        with self._one_moment():
            name = quoted(*self._definition(table).name)
            row = self._execute(f"EXPLAIN (FORMAT JSON) SELECT FROM {name}").fetchone()
        assert row is not None
        return int(row[0][0]["Plan"]["Plan Rows"])

    def lines(self, table: str) -> Iterator[list[KeyedLine]]:
        with self._one_moment():
            definition = self._definition(table)
            # A copy's tables stay locked anyway; without a moment there is nothing to hold stretches together.
            if self._locking or not self._fixed:
                yield from lines.all_lines(self._connection, definition)
                return
            facts = flaws.facts_of(self._connection, [definition]).get(definition.name)
            open_columns: list[str] = []
            if self._given is not None and facts is not None:
                open_columns = flaws.uncarried(definition, facts, generated=self._publishes_generated())
            yield from TableScan(self._database, _SETTINGS, self._connection, definition).chunks(open_columns)

    def flaws(self) -> dict[str, str]:
        """Why tables cannot be compared by their definitions, by label; at this moment."""
        with self._one_moment():
            definitions = self.tables()
            facts = flaws.facts_of(self._connection, definitions)
            captured = self._given is not None
            found = {
                definition.label: text
                for definition in definitions
                if (text := flaws.flaw(definition, facts.get(definition.name), captured=captured))
            }
            if self._publication is not None:
                found |= flaws.unknown_tables(self._connection, self._publication, {each.name for each in definitions})
            return found

    def _publishes_generated(self) -> bool:
        return self._publication is not None and flaws.publishes_generated(self._connection, self._publication)

    def lines_of(self, table: str, keys: Sequence[Sequence[str]]) -> list[KeyedLine]:
        with self._one_moment():
            definition = self._definition(table)
            types = schema.column_types(self._connection, definition)
            of_key = [types[place] for place in definition.key_places]
            return lines.lines_of_keys(self._connection, definition, of_key, keys)

    def lines_placed(self, table: str, after: int, until: int) -> Iterator[list[KeyedLine]]:
        with self._one_moment():
            yield from lines.lines_placed(self._connection, self._definition(table), after, until)

    def quarantine(self) -> QuarantineTable:
        return QuarantineTable(self._quarantine_rows, "replicator.quarantine", "%s")

    def _quarantine_rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        with self._one_moment():
            if self._given is not None or not exists(self._connection, "replicator.quarantine"):
                return []
            return self._connection.execute(sql.encode(), parameters).fetchall()

    def _documents(self, definition: Definition, where: str, parameters: list[TextValue], limit: int) -> list[Document]:
        names = [column.name for column in definition.columns]
        order = listed(definition.key or self._places())
        cursor = psycopg.RawCursor(self._connection)
        statement = (
            f"SELECT {listed(names)} FROM {quoted(*definition.name)} WHERE {where} ORDER BY {order} LIMIT {int(limit)}"
        )
        try:
            # A key that is refused must not end the snapshot.
            with self._connection.transaction() if self._fixed else contextlib.nullcontext():
                cursor.execute(statement.encode(), parameters)
        except psycopg.DataError as error:
            place = f"table {definition.label}"
            cure = "write the key as the database prints it"
            raise Rejected("bad_key", f"the key is not of its type: {error}", place=place, cure=cure) from error
        return [_document(definition, row) for row in texts_of(cursor)]

    def _places(self) -> Sequence[str]:
        return PLACE_COLUMNS if self._given is None else ("ctid",)

    def _definition(self, table: str) -> Definition:
        definition = self._current().get(table)
        if definition is None:
            raise unknown_table(table)
        return definition

    def _current(self) -> dict[str, Definition]:
        """The definitions as this reader sees them now; read anew only if one was written."""
        if self._given is not None:
            return {definition.label: definition for definition in self._given.values()}
        if not self._is_replica():
            return {}
        answer = self._connection.execute("SELECT coalesce(max(number), 0) FROM replicator.definition").fetchone()
        if answer is not None and answer[0] != self._number:
            found = schema.current_definitions(self._connection)
            self._definitions = {definition.label: definition for definition in found.values()}
            self._number = int(answer[0])
        return self._definitions

    def _is_replica(self) -> bool:
        if self._given is not None:
            return False
        if not self._has_own_tables:
            self._has_own_tables = exists(self._connection, "replicator.definition")
        return self._has_own_tables

    def _in_transaction(self) -> bool:
        return self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

    @contextlib.contextmanager
    def _one_moment(self) -> Iterator[None]:
        """Everything read within belongs to one commit, with or without ``snapshot``."""
        if self._connection.closed:
            raise Unavailable(
                "replica_unreachable", "the connection is closed", place=self._database.place, cure="open it again"
            )
        with self._database.translated():
            if self._in_transaction():
                yield
                return
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield
            finally:
                if not self._connection.closed:
                    self._connection.execute("ROLLBACK")

    def _execute(self, statement: str) -> psycopg.Cursor:
        return self._connection.execute(statement.encode())


def _key(definition: Definition, key: Sequence[str]) -> list[TextValue]:
    return [TextValue(text.encode()) for _, text in checked_key(definition, key)]


def _document(definition: Definition, row: Sequence[str | None]) -> Document:
    values = {
        column.name: None if text is None else json_of(column)(text)
        for column, text in zip(definition.columns, row, strict=True)
    }
    return Document(definition, {name: values[name] for name in definition.key}, values)
