"""The initial copy's rows, as parts of one block.

Guarantee: the rows are those of the slot's snapshot; their images are what the stream would bring. Memory holds one
part. Blocking: one step at a time in a worker thread.

COPY's binary form is tuples in the layout of row images, so a row is a slice; its text form is split and unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgpack
import psycopg

from replicator.errors import Halted, Unavailable
from replicator.format.block import BlockPart
from replicator.format.definition import Definition
from replicator.format.evolution import RESYNC
from replicator.format.row import pack_row
from replicator.format.statement import INSERT, pack_define
from replicator.pipeline.sources.postgres.pgoutput import PART_BYTES
from replicator.postgres.catalog import TableFacts, read_tables
from replicator.postgres.errors import state_of
from replicator.postgres.quoting import listed, literal, quoted
from replicator.postgres.session import Connection

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES = len(_SIGNATURE) + 8  # and flags, and the length of an extension that is empty
_TRAILER = b"\xff\xff"
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_pack = msgpack.Packer().pack
FACTS_AT_ONCE = 500
TEXT_LIMIT_BYTES = (1 << 29) - 2  # two digits a byte, and a message of 1 GB at most
_BYTES = """
SELECT n.nspname, c.relname, a.attname FROM pg_publication_tables t
  JOIN pg_namespace n ON n.nspname = t.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'bytea'::regtype
 WHERE t.pubname = %s ORDER BY 1, 2, 3
"""
# Of a table, its indexes, its partitions and theirs: planning a query locks them all.
_LOCKS = """
SELECT c.oid::int8, (1 + (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid)
       + CASE c.relkind WHEN 'p' THEN (SELECT count(*) + count(i.indexrelid) FROM pg_partition_tree(c.oid) t
           LEFT JOIN pg_index i ON i.indrelid = t.relid WHERE t.level > 0) ELSE 0 END)::int8
  FROM pg_class c WHERE c.oid = ANY(%s::oid[])
"""


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
        try:
            connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE".encode())
        except psycopg.errors.UndefinedTable as error:
            raise _changed(str(error).strip()) from error


def check_unchanged(tables: Sequence[TableFacts], fresh: Connection) -> None:
    """Raise Unavailable if a table was altered or rewritten between the snapshot and the lock.

    A rewritten table looks empty to older snapshots; the copy then has to begin again.
    """
    now = {table.oid: table for table in read_tables(fresh, [table.oid for table in tables])}
    for then in tables:
        if now.get(then.oid) != then:
            raise _changed(f"table {'.'.join(then.name)}")


def _changed(place: str) -> Unavailable:
    return Unavailable(
        "table_changed_during_copy",
        "the table was altered, truncated or rewritten while the copy had not come to it",
        place=place,
        cure="the copy begins again by itself; wait with such statements until it is done",
    )


def estimate_rows(connection: Connection, tables: Sequence[TableFacts]) -> int:
    """How many rows PostgreSQL's planner expects; it looks at the files, so a table need not be analyzed."""
    total = 0
    for table in tables:
        only = "ONLY " if table.kind == "r" else ""
        plan = f"EXPLAIN (FORMAT JSON) SELECT FROM {only}{quoted(*table.name)}"
        try:
            row = connection.execute(plan.encode()).fetchone()
        except psycopg.errors.UndefinedTable:
            continue  # it is looked at again before it is copied
        assert row is not None
        total += int(row[0][0]["Plan"]["Plan Rows"])
    return total


def copy_parts(connection: Connection, tables: Sequence[CopyTable]) -> Iterator[BlockPart]:
    """All definitions, then all rows, in parts of about PART_BYTES; the last one may be empty."""
    return _parts(tables, _inserts(connection, tables))


def copy_groups(
    connection: Connection, fresh: Connection, snapshot: str, groups: Sequence[Sequence[CopyTable]]
) -> Iterator[BlockPart]:
    """As ``copy_parts``, each group of tables in a transaction of its own: what a snapshot shows stays what it shows,
    and the server's lock table need not hold all tables at once. ``fresh`` sees the present."""

    def inserts() -> Iterator[bytes]:
        for group in groups:
            enter_snapshot(connection, snapshot)
            facts = [table.facts for table in group]
            lock_tables(connection, facts)
            check_unchanged(facts, fresh)
            yield from _inserts(connection, group)
            connection.execute("COMMIT")

    return _parts([table for group in groups for table in group], inserts())


def grouped(tables: Sequence[CopyTable], locks: Mapping[int, int], most: int) -> list[list[CopyTable]]:
    """The tables in their order, in groups that take so many locks together, or a single table that takes more.
    ``locks`` are those that reading a table takes, by oid. Pure."""
    groups: list[list[CopyTable]] = [[]]
    taken = 0
    for table in tables:
        needed = locks.get(table.facts.oid, 1)
        if groups[-1] and taken + needed > most:
            groups.append([])
            taken = 0
        groups[-1].append(table)
        taken += needed
    return groups


def locks_of(connection: Connection, oids: Sequence[int]) -> tuple[dict[int, int], int]:
    """How many locks reading each table takes, with its indexes and partitions; and how many one transaction of ours
    may take: a quarter of what the server is configured to hold."""
    taken = {
        oid: locks
        for first in range(0, len(oids), FACTS_AT_ONCE)
        for oid, locks in connection.execute(_LOCKS, (list(oids[first : first + FACTS_AT_ONCE]),))
    }
    row = connection.execute(
        "SELECT current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int"
        " + current_setting('max_prepared_transactions')::int)"
    ).fetchone()
    assert row is not None
    return taken, max(1, row[0] // 4)


def _parts(tables: Sequence[CopyTable], inserts: Iterator[bytes]) -> Iterator[BlockPart]:
    statements = [pack_define(table.relation, table.definition) for table in tables]
    size = sum(map(len, statements))
    for statement in inserts:
        statements.append(statement)
        size += len(statement)
        if size > PART_BYTES:
            yield BlockPart(len(statements), b"".join(statements))
            statements.clear()
            size = 0
    yield BlockPart(len(statements), b"".join(statements))


def _inserts(connection: Connection, tables: Sequence[CopyTable]) -> Iterator[bytes]:
    for table in tables:
        relation = table.relation
        try:
            for image in _rows(connection, table):
                yield _pack((INSERT, relation, image))
        except psycopg.Error as error:
            if state_of(error)[:2] != "54":
                raise
            raise too_large(error, f"table {table.definition.label}") from error


def large_values(connection: Connection, publication: str) -> str:
    """Where there is a value that has no text form: the tables and columns, as far as it is there still."""
    found = []
    for namespace, table, column in connection.execute(_BYTES, (publication,)).fetchall():
        name = quoted(namespace, table)
        text = f"SELECT FROM {name} WHERE octet_length({quoted(column)}) > {TEXT_LIMIT_BYTES} LIMIT 1"
        if connection.execute(text.encode()).fetchone() is not None:  # its length is told without reading it
            found.append(f"table {namespace}.{table}, column {column}")
    return "; ".join(found)


def too_large(error: psycopg.Error | Halted, place: str) -> Halted:
    """A value or row that the server cannot send, or nobody could take."""
    return Halted(
        "value_too_large",
        f"a value or row is too large to be sent: {error.message if isinstance(error, Halted) else str(error).strip()}",
        place=place,
        cure="delete it or make it smaller (a bytea of more than 512 MB has no text form); a change of it that the log"
        f" holds cannot be passed over: then {RESYNC}",
    )


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
