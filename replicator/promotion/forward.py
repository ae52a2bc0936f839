"""Sequences of a promoted database: made, tied to their columns, moved on (``numbers``).

Guarantee: a column that the ledger knows to be fed by a sequence is fed by one here, its default works, and what it
gives next is in use nowhere that is known. Doing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import sql

from replicator.definition import Definition
from replicator.promotion.numbers import Facts, goes_on
from replicator.replicas.postgres import sequences
from replicator.sources.postgres.catalog import quoted, read_table, table_oid
from replicator.sources.postgres.connection import Connection
from replicator.sources.postgres.options import TableName

_BOUNDS = {"smallint": 2**15 - 1, "integer": 2**31 - 1}


class _Use:
    """Who uses a sequence: the values that are known to be used, and the bound of the narrowest column."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.bound = 2**63 - 1


def move_sequences(connection: Connection, definitions: Iterable[Definition], reserve: int) -> None:
    """Every sequence that was carried, or feeds a column, goes on behind what is in use."""
    uses: dict[TableName, _Use] = {}
    carried = {
        (namespace, name): (value, increment)
        for namespace, name, value, increment in connection.execute(
            "SELECT namespace, name, value, increment FROM replicator.sequence"
        )
    }
    for definition in definitions:
        sequences.attach(connection, definition)
        for column in definition.columns:
            if column.sequence is not None:
                local = _feeding(connection, definition.name, column.name) or column.sequence
                use = uses.setdefault(local, _Use())
                use.bound = min(use.bound, _BOUNDS.get(column.type, use.bound))
                if column.sequence in carried:
                    use.values.append(carried[column.sequence][0])
                use.values += _ends(connection, definition.name, column.name)
    for name, (value, _) in carried.items():
        uses.setdefault(name, _Use()).values.append(value)
    for name, use in uses.items():
        _move(connection, name, use, reserve)


def _feeding(connection: Connection, table: TableName, column: str) -> TableName | None:
    """The sequence that feeds the column here; an identity's may have another name than the ledger's."""
    oid = table_oid(connection, table)
    facts = read_table(connection, oid) if oid is not None else None
    return next((a.sequence for a in facts.attributes if a.name == column and not a.dropped), None) if facts else None


def _ends(connection: Connection, table: TableName, column: str) -> list[int]:
    """The least and the greatest value in the column: only the one in the sequence's direction will count."""
    name = sql.Identifier(column)
    row = _one(connection, sql.SQL("SELECT min({0})::int8, max({0})::int8 FROM {1}").format(name, quoted(table)))
    return [value for value in row if value is not None]


def _move(connection: Connection, name: TableName, use: _Use, reserve: int) -> None:
    label = quoted(name).as_string(connection)
    if connection.execute("SELECT to_regclass(%s)", [label]).fetchone() == (None,):
        return
    start, increment, low, high, cache = _one(
        connection,
        sql.SQL(
            "SELECT seqstart, seqincrement, seqmin, seqmax, seqcache FROM pg_sequence WHERE seqrelid = {}::regclass"
        ).format(sql.Literal(label)),
    )
    last, called = _one(connection, sql.SQL("SELECT last_value, is_called FROM {}").format(quoted(name)))
    bounds = max(low, -use.bound - 1), min(high, use.bound)
    facts = Facts(start, increment, *bounds, cache, last if called else None)
    value = goes_on(facts, use.values, reserve).value
    if value is not None:
        connection.execute("SELECT setval(%s::regclass, %s, true)", [label, value])


def _one(connection: Connection, query: sql.Composed) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
