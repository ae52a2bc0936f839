"""Sequences: their values are not in the change stream, so they are read from time to time.

Guarantee: a value that is carried was handed out before its block; the blocks of one sequence follow its readings.
A sequence that was never used is left out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from replicator.sources.postgres.catalog import TableFacts
from replicator.sources.postgres.connection import Connection
from replicator.sources.postgres.options import TableName
from replicator.statement import pack_sequence


class SequenceValue(NamedTuple):
    """The last value that a sequence handed out, and its step."""

    namespace: str
    name: str
    value: int
    increment: int


def read_sequences(
    connection: Connection, namespaces: Collection[str], owned: Collection[TableName]
) -> list[SequenceValue]:
    """The used sequences of these schemas, and those of these names."""
    rows = connection.execute(
        "SELECT schemaname, sequencename, last_value, increment_by FROM pg_sequences WHERE last_value IS NOT NULL"
        " AND (schemaname = ANY(%s) OR (schemaname, sequencename) IN (SELECT * FROM unnest(%s::text[], %s::text[])))"
        " ORDER BY 1, 2",
        (list(namespaces), [schema for schema, _ in owned], [name for _, name in owned]),
    )
    return [SequenceValue(*row) for row in rows]


def wanted_sequences(tables: Collection[TableFacts]) -> tuple[set[str], set[TableName]]:
    """The schemas whose sequences are carried, and the sequences that columns own."""
    owned = {a.sequence for table in tables for a in table.attributes if a.sequence is not None}
    return {table.namespace for table in tables}, owned


def pack_sequences(values: Collection[SequenceValue]) -> list[bytes]:
    """As statements."""
    return [pack_sequence(*value) for value in values]
