"""Sequences of a promoted database: made, tied to their columns, moved on (``sequence_values``).

Guarantee: a column that the ledger knows to be fed by a sequence is fed by one here, its default works, and what it
gives next is in use nowhere that is known. Doing it again changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import starmap
from typing import Any

from replicator.cluster.promotion.sequence_values import SequenceFacts, goes_on, reserves
from replicator.format.definition import Column, Definition
from replicator.pipeline.replicas.base import SetSequence
from replicator.pipeline.replicas.postgres import sequences
from replicator.pipeline.sources.postgres.sequences import SequenceValue
from replicator.postgres.catalog import TableName, read_table, table_oid
from replicator.postgres.quoting import literal, quoted
from replicator.postgres.session import Connection

log = logging.getLogger("replicator")

_BOUNDS = {"smallint": 2**15 - 1, "integer": 2**31 - 1}


class _SequenceUse:
    """Who uses a sequence: the values that are known to be used, and the bound of the narrowest column."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.bound = 2**63 - 1


def move_sequences(connection: Connection, definitions: Iterable[Definition], reserve: int, epochs: int = 1) -> None:
    """Every sequence that was carried, or feeds a column, goes on behind what is in use; see ``goes_on``."""
    uses: dict[TableName, _SequenceUse] = {}
    rows = connection.execute("SELECT namespace, name, value, increment FROM replicator.sequence").fetchall()
    carried = {(step.namespace, step.name): step for step in starmap(SetSequence, rows)}
    for name, step in carried.items():
        sequences.advance(connection, step)
        uses.setdefault(name, _SequenceUse()).values.append(step.value)
    for definition in definitions:
        for column, here in _fed(connection, definition):
            use = uses.setdefault(here, _SequenceUse())
            use.bound = min(use.bound, _BOUNDS.get(column.type, use.bound))
            if column.sequence in carried:
                use.values.append(carried[column.sequence].value)
            use.values += _ends(connection, definition.name, column)
    for name, use in uses.items():
        _move(connection, name, use, reserve, epochs)


def move_own_sequences(
    connection: Connection,
    values: Iterable[SequenceValue],
    definitions: Iterable[Definition],
    reserve: int,
    epochs: int,
) -> None:
    """The sequences of a server that leads again, as ``values`` has them, go on behind what others may have handed out
    in epochs that it has not heard of."""
    uses: dict[TableName, _SequenceUse] = {}
    for value in values:
        uses[value.namespace, value.name] = use = _SequenceUse()
        use.values.append(value.value)
    for definition in definitions:
        feeding = _feeding(connection, definition)
        for column in definition.columns:
            here = feeding.get(column.name)
            if here in uses:
                uses[here].bound = min(uses[here].bound, _BOUNDS.get(column.type, uses[here].bound))
    for name, use in uses.items():
        _move(connection, name, use, reserve, epochs)


def _fed(connection: Connection, definition: Definition) -> list[tuple[Column, TableName]]:
    """The columns that sequences feed, and by which: an identity's may have another name here than in the ledger. One
    that nothing feeds here gets the ledger's."""
    columns = [column for column in definition.columns if column.sequence is not None]
    feeding = _feeding(connection, definition) if columns else {}
    if any(feeding.get(column.name) is None for column in columns):  # tables that replay made have no defaults
        sequences.attach(connection, definition)
        feeding = _feeding(connection, definition)
    return [(column, here) for column in columns if (here := feeding.get(column.name)) is not None]


def _feeding(connection: Connection, definition: Definition) -> dict[str, TableName | None]:
    oid = table_oid(connection, definition.name)
    facts = read_table(connection, oid) if oid is not None else None
    return {a.name: a.sequence for a in facts.attributes if not a.dropped} if facts else {}


def _ends(connection: Connection, table: TableName, column: Column) -> list[int]:
    """The least and the greatest value in the column: only the one in the sequence's direction will count. What no
    sequence can reach does not."""
    is_integer = column.type in ("smallint", "integer", "bigint")  # an index gives these at once
    if not is_integer and not column.type.startswith(("numeric", "real", "double")):
        return []
    name = quoted(column.name)
    where = "" if is_integer else f" WHERE {name} BETWEEN -9223372036854775807 AND 9223372036854775807"
    row = _row(connection, f"SELECT min({name}), max({name}) FROM {quoted(*table)}{where}")
    return [int(value) for value in row if value is not None]


def _move(connection: Connection, name: TableName, use: _SequenceUse, reserve: int, epochs: int) -> None:
    label = quoted(*name)
    start, increment, low, high, cache = _row(
        connection,
        "SELECT seqstart, seqincrement, seqmin, seqmax, seqcache FROM pg_sequence"
        f" WHERE seqrelid = {literal(label)}::regclass",
    )
    last, called = _row(connection, f"SELECT last_value, is_called FROM {label}")
    bounds = max(low, -use.bound - 1), min(high, use.bound)
    facts = SequenceFacts(start, increment, *bounds, cache, last if called else None)
    value, left_out = goes_on(facts, use.values, reserve, epochs)
    if left_out < reserve * reserves(epochs):
        log.warning(
            "sequence %s has no room for all that a lost primary may have handed out: %s numbers are left out, not %s",
            *(".".join(name), f"{left_out:,}", f"{reserve * reserves(epochs):,}"),
        )
    if value is not None:
        connection.execute("SELECT setval(%s::regclass, %s, true)", [label, value])


def _row(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row
