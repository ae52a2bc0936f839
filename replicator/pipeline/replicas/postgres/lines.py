"""A table's rows as canonical lines, straight from COPY: the server writes them, nothing is decoded here.

Guarantee: what comes out is what the database stores, at the moment that the connection's transaction sees. Memory is
bounded by ``CHUNK_ROWS``; a statement may take as long as its reader takes, so its time has no limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from replicator.format.canonical import RowLines
from replicator.format.definition import Definition
from replicator.pipeline.replicas.base import KeyedLine
from replicator.pipeline.replicas.postgres.comparisons import equal, operators
from replicator.pipeline.replicas.postgres.rows import PLACE_COLUMNS
from replicator.postgres.quoting import listed, quoted
from replicator.postgres.session import Connection

CHUNK_ROWS = 2000
KEYS_AT_ONCE = 5000
# Each key is looked up in the index, whatever the statistics say.
_BY_KEY = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off"
_AS_USUAL = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; SET LOCAL enable_seqscan = on"


def all_lines(connection: Connection, definition: Definition) -> Iterator[list[KeyedLine]]:
    """Every row; within a transaction."""
    lines = RowLines(definition)
    statement = f"SELECT {listed(lines.names)} FROM {own_rows(connection, definition)}"
    yield from _copied(connection, lines, sql.SQL("COPY ({}) TO STDOUT").format(sql.SQL(statement)))


def lines_of_keys(
    connection: Connection, definition: Definition, types: Sequence[str], keys: Sequence[Sequence[str]]
) -> list[KeyedLine]:
    """The rows of these keys, each a text for every key column, as far as they are there; within a transaction.
    ``types`` are the SQL types of the key's columns."""
    lines = RowLines(definition)
    wanted = ", ".join(f"t.{quoted(name)}" for name in lines.names)
    names = ", ".join(f"k{place}" for place in range(lines.keys))
    by_column = operators(connection, definition)
    on = " AND ".join(
        f"t.{quoted(name)} {equal(by_column, name)} k.k{place}::{kind}"
        for place, (name, kind) in enumerate(zip(definition.key, types, strict=True))
    )
    found: list[KeyedLine] = []
    connection.execute(_BY_KEY)
    for at in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[at : at + KEYS_AT_ONCE]
        columns = (sql.Literal([key[place] for key in some]) for place in range(lines.keys))
        statement = sql.SQL("COPY (SELECT {} FROM unnest({}) AS k ({}) JOIN {} AS t ON {}) TO STDOUT").format(
            sql.SQL(wanted),
            sql.SQL(", ").join(sql.SQL("{}::text[]").format(column) for column in columns),
            sql.SQL(names),
            sql.SQL(own_rows(connection, definition)),
            sql.SQL(on),
        )
        found += [row for chunk in _copied(connection, lines, statement) for row in chunk]
    connection.execute(_AS_USUAL)
    return found


def lines_placed(connection: Connection, definition: Definition, after: int, until: int) -> Iterator[list[KeyedLine]]:
    """The rows of a table without a key that blocks behind ``after``, up to ``until``, have inserted; the key line is
    their place, ``sequence ordinal``. Within a transaction, on a replica."""
    lines = RowLines(definition)
    statement = (
        f"SELECT {listed([*PLACE_COLUMNS, *lines.names])} FROM {quoted(*definition.name)}"
        f" WHERE _sequence > {int(after)} AND _sequence <= {int(until)}"
    )
    for chunk in _copied(connection, lines, sql.SQL("COPY ({}) TO STDOUT").format(sql.SQL(statement))):
        split = (line.split(b"\t", len(PLACE_COLUMNS)) for _, line in chunk)
        yield [(b" ".join(place), rest[0] if rest else b"") for *place, rest in ((a, b, c) for a, b, *c in split)]


def own_rows(connection: Connection, definition: Definition) -> str:
    """The table as FROM takes it: without the rows of tables that inherit from it, but with those of its partitions.
    So it is what the change stream tells of it."""
    name = quoted(*definition.name)
    kind = connection.execute("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [name]).fetchone()
    return name if kind == ("p",) else f"ONLY {name}"


def _copied(connection: Connection, lines: RowLines, statement: sql.Composed) -> Iterator[list[KeyedLine]]:
    connection.execute("SET LOCAL statement_timeout = 0")
    key_of, chunk = lines.key_of, list[KeyedLine]()
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for data in copy:
            line = bytes(data)[:-1]
            chunk.append((key_of(line), line))
            if len(chunk) == CHUNK_ROWS:
                yield chunk
                chunk = []
    yield chunk
