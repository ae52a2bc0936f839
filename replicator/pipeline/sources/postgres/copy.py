"""The initial copy's rows, as parts of one block.

Guarantee: the rows are those of the slot's snapshot; their images are what the stream would bring. Memory holds one
part. Blocking: one step at a time in a worker thread.

COPY's binary form is tuples in the layout of row images, so a row is a slice; its text form is split and unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgpack
import psycopg

from replicator.errors import Unavailable
from replicator.format.block import BlockPart
from replicator.format.definition import Definition
from replicator.format.row import pack_row
from replicator.format.statement import INSERT, pack_define
from replicator.pipeline.sources.postgres.pgoutput import PART_BYTES
from replicator.postgres.catalog import TableFacts, read_tables
from replicator.postgres.quoting import listed, literal, quoted
from replicator.postgres.session import Connection

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES = len(_SIGNATURE) + 8  # and flags, and the length of an extension that is empty
_TRAILER = b"\xff\xff"
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_pack = msgpack.Packer().pack


class CopyTable(NamedTuple):
    """A table to copy, and the relation that its rows name."""

    relation: int
    definition: Definition
    facts: TableFacts


def enter_snapshot(connection: Connection, snapshot: str) -> None:
    """Begin a transaction that sees what the exported snapshot sees."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}".encode())


def lock_tables(connection: Connection, tables: Sequence[TableFacts]) -> None:
    """Keep the tables' definitions from changing until the transaction ends; rows may change."""
    if tables:
        names = ", ".join(quoted(*table.name) for table in tables)
        connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE".encode())


def check_unchanged(tables: Sequence[TableFacts], fresh: Connection) -> None:
    """Raise Unavailable if a table was altered or rewritten between the snapshot and the lock.

    A rewritten table looks empty to older snapshots; the copy then has to begin again.
    """
    now = {table.oid: table for table in read_tables(fresh, [table.oid for table in tables])}
    for then in tables:
        if now.get(then.oid) != then:
            raise Unavailable(
                "table_changed_during_copy",
                "the table was altered, truncated or rewritten just when the copy began",
                place=f"table {'.'.join(then.name)}",
                cure="the copy begins again by itself; wait with such statements until it is done",
            )


def estimate_rows(connection: Connection, tables: Sequence[TableFacts]) -> int:
    """How many rows PostgreSQL's planner expects; it looks at the files, so a table need not be analyzed."""
    total = 0
    for table in tables:
        only = "ONLY " if table.kind == "r" else ""
        plan = f"EXPLAIN (FORMAT JSON) SELECT FROM {only}{quoted(*table.name)}"
        row = connection.execute(plan.encode()).fetchone()
        assert row is not None
        total += int(row[0][0]["Plan"]["Plan Rows"])
    return total


def copy_parts(connection: Connection, tables: Sequence[CopyTable]) -> Iterator[BlockPart]:
    """All definitions, then all rows, in parts of about PART_BYTES; the last one may be empty."""
    statements = [pack_define(table.relation, table.definition) for table in tables]
    size = sum(map(len, statements))
    for table in tables:
        relation = table.relation
        for image in _rows(connection, table):
            statement = _pack((INSERT, relation, image))
            statements.append(statement)
            size += len(statement)
            if size > PART_BYTES:
                yield BlockPart(len(statements), b"".join(statements))
                statements.clear()
                size = 0
    yield BlockPart(len(statements), b"".join(statements))


def _rows(connection: Connection, table: CopyTable) -> Iterator[bytes]:
    columns = table.definition.columns
    binary = bool(columns) and columns[0].format == "binary"
    with connection.cursor().copy(_statement(table, binary=binary)) as copy:
        yield from _binary_rows(copy) if binary else _text_rows(copy, len(columns))


def _statement(table: CopyTable, *, binary: bool) -> bytes:
    """COPY of the published columns. Partitions and generated columns can be read by a query only."""
    names = [column.name for column in table.definition.columns]
    columns = listed(names)
    generated = {attribute.name for attribute in table.facts.attributes if attribute.generated}
    form = "binary" if binary else "text"
    if names and table.facts.kind == "r" and not generated & set(names):
        return f"COPY {quoted(*table.facts.name)} ({columns}) TO STDOUT (FORMAT {form})".encode()
    only = "ONLY " if table.facts.kind == "r" else ""
    query = f"SELECT {columns} FROM {only}{quoted(*table.facts.name)}"
    return f"COPY ({query}) TO STDOUT (FORMAT {form})".encode()


def _binary_rows(copy: psycopg.Copy) -> Iterator[bytes]:
    """The server sends one row a message; the header comes before the first, the trailer is a message of its own."""
    first = True
    for message in copy:
        data = bytes(message)
        if first:
            if not data.startswith(_SIGNATURE):
                raise ValueError("a binary copy without its signature")
            data, first = data[_HEADER_BYTES:], False
        if data and data != _TRAILER:
            yield data


def _text_rows(copy: psycopg.Copy, columns: int) -> Iterator[bytes]:
    for message in copy:
        line = bytes(message)[:-1]
        values = line.split(b"\t") if columns else []
        if len(values) != columns:
            raise ValueError(f"a copied row of {len(values)} columns, {columns} were expected")
        yield pack_row([None if value == b"\\N" else _unescaped(value) for value in values])


def _unescaped(value: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), value) if b"\\" in value else value
