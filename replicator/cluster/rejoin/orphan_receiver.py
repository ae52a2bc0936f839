"""A PostgreSQL primary takes an orphan transaction of another region.

Guarantee: all of it in one transaction of the database, in which every row is first locked and compared with what it
was before the orphan; a row that differs refuses the whole. Sent twice it is carried out once: where every row is
already as the orphan left it, nothing is done. Rows of tables without a key cannot be told apart, so they are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

from replicator.errors import Halted, Rejected
from replicator.format.definition import Definition
from replicator.pipeline.replicas.postgres import comparisons, few, schema
from replicator.pipeline.replicas.postgres.few import FewRows
from replicator.pipeline.replicas.postgres.rows import PostgresRows
from replicator.postgres.errors import REPLICA
from replicator.postgres.session import Connection, Database
from replicator.postgres.settings import WRITER
from replicator.verify.repair.images import as_stored, pack_texts, unpack_texts

_SETTINGS = {
    **WRITER,
    "lock_timeout": "5s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
    "synchronous_commit": "on",  # as an application's commit: it waits for the standbys that the server waits for
}

Fields = dict[str, Any]
Row = dict[str, str | None]


class OrphanReceiver(Protocol):
    """Where orphans of other regions are carried out."""

    def take(self, rows: list[Fields]) -> bool: ...


class PostgresOrphanReceiver:
    """One database; ``definitions`` are those of its tables by label."""

    def __init__(self, dsn: str, definitions: Mapping[str, Definition]) -> None:
        self._database = Database(dsn, REPLICA)
        self._definitions = definitions

    def take(self, rows: list[Fields]) -> bool:
        """Carry out these changes (``table``, ``key``, ``before``, ``after``), in order; False if they were already.
        Raises Rejected (then nothing was changed) or Unavailable. Blocks."""
        with contextlib.closing(self._database.connect(_SETTINGS)) as connection:
            few.prepare(connection)
            try:
                with self._database.translated(), connection.transaction():
                    return self._take(connection, rows)
            except Halted as error:
                place = self._database.place
                raise Rejected(error.reason, error.message, status=409, place=place, cure=error.cure) from error

    def _take(self, connection: Connection, rows: list[Fields]) -> bool:
        tables = {label: self._table(connection, label) for label in dict.fromkeys(change["table"] for change in rows)}
        # Of a key that is changed more than once the last change says what there is in the end.
        ends = {(change["table"], pack_texts(list(change["key"].values()))): change["after"] for change in rows}
        if all(tables[label].row(key) == after for (label, key), after in ends.items()):
            return False
        for change in rows:
            # Read again for each change: it may build on one before it in the same transaction.
            table, key = tables[change["table"]], pack_texts(list(change["key"].values()))
            if table.row(key) != change["before"]:
                raise _changed(change)
            table.write(key, change)
        return True

    def _table(self, connection: Connection, label: str) -> _ReceivingTable:
        definition = self._definitions.get(label)
        if definition is None or not definition.key:
            what = "there is no such table" if definition is None else "its rows have no key"
            cure = "carry it out by hand, by the report"
            raise Rejected("cannot_take", what, status=409, place=f"table {label[:100]}", cure=cure)
        return _ReceivingTable(connection, as_stored(definition))


class _ReceivingTable:
    """A table of the primary, row by row."""

    def __init__(self, connection: Connection, definition: Definition) -> None:
        self._names = [column.name for column in definition.columns]
        types, operators = schema.column_types(connection, definition), comparisons.operators(connection, definition)
        self._few = FewRows(connection, PostgresRows(definition, types, 0, operators=operators))

    def row(self, key: bytes) -> Row | None:
        """The row, locked; None if there is none."""
        (row,) = self._few.stored([key])
        return None if row is None else dict(zip(self._names, row, strict=True))

    def write(self, key: bytes, change: Fields) -> None:
        """The row as it was after the orphan."""
        if change["after"] is None:
            self._few.delete([key])
            return
        if list(change["after"]) != self._names:
            raise _changed(change)
        fresh = self._few.upsert([pack_texts(list(change["after"].values()))])
        if bool(fresh) != (change["before"] is None):
            raise _changed(change)  # somebody was quicker


def _changed(change: Fields) -> Rejected:
    key = ", ".join(str(text)[:80] for text in unpack_texts(pack_texts(list(change["key"].values()))))
    return Rejected(
        "row_changed",
        "the row is not as it was before the orphan: nothing was changed",
        status=409,
        place=f"table {change['table']}, key {key}",
        cure="see replicator orphans show CONFIG ID, and decide by the report",
    )
