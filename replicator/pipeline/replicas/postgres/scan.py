"""A whole table at one moment, read without keeping the table locked.

Guarantee: what comes out is every row as the moment's snapshot sees it, and the table is locked (ACCESS SHARE) for at
most about ``LOCK_SECONDS`` at a time, so whoever waits to alter it, and all who wait behind, wait no longer than that.
The least that is read in one go is the rows of one page.

The idea: the moment's transaction exports its snapshot and locks nothing itself. Stretches of pages are then read in
transactions of their own that take the snapshot over, each sized by how long the one before took. Rows stay where they
are for as long as a snapshot sees them, unless the table is rewritten or emptied: to an older snapshot it then looks
empty. So each stretch first compares the table's files with those that the snapshot knows (``table_changed``).

Not held back: VACUUM cannot clean up behind the snapshot, which is as old as it takes to read the table.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import sql

from replicator.errors import Halted, Unavailable
from replicator.format.canonical import RowLines
from replicator.format.definition import Definition
from replicator.pipeline.replicas.base import KeyedLine
from replicator.pipeline.replicas.postgres.lines import CHUNK_ROWS, own_rows
from replicator.postgres.quoting import listed, quoted
from replicator.postgres.session import Connection, Database

LOCK_SECONDS = 0.1
FIRST_PAGES = 16
PAGES_LIMIT = 1 << 16

# The files as the snapshot knows them (the catalog's rows), and as they are (the functions look at the present). A
# partitioned table has those of its partitions.
_FILES = """
WITH RECURSIVE tree (oid) AS (
    SELECT to_regclass(%(name)s)::oid
     UNION ALL
    SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid
      JOIN pg_class p ON p.oid = t.oid AND p.relkind = 'p')
SELECT bool_and(c.relfilenode = coalesce(pg_relation_filenode(c.oid), 0)),
       count(*) = (SELECT greatest(count(*), 1) FROM pg_partition_tree(to_regclass(%(name)s))),
       coalesce(max(pg_relation_size(c.oid)), 0) / current_setting('block_size')::int
  FROM tree JOIN pg_class c USING (oid)
"""


class TableScan:
    """Reads one table as the transaction of ``moment`` sees it. ``uncarried`` are columns that no definition has yet:
    a value in one of them is a fault of the table (``column_not_carried``)."""

    def __init__(
        self, database: Database, settings: Mapping[str, str], moment: Connection, definition: Definition
    ) -> None:
        self._database = database
        self._settings = settings
        self._moment = moment
        self._definition = definition
        self._name = quoted(*definition.name)
        self._place = f"table {definition.label}"

    def chunks(self, uncarried: list[str]) -> Iterator[list[KeyedLine]]:
        """Every row, some thousand at a time. Raises Unavailable, or Halted."""
        (snapshot,) = self._one(self._moment, "SELECT pg_export_snapshot()")
        page, pages = 0, FIRST_PAGES
        with contextlib.closing(self._database.connect(self._settings)) as connection, self._database.translated():
            last = None
            while last is None or page < last:
                began = time.monotonic()
                rows, size = self._stretch(connection, snapshot, page, page + pages, uncarried)
                last = size if last is None else last  # what came later than the snapshot it does not see
                page += pages
                took = time.monotonic() - began
                pages = max(1, min(pages * 2 if took < LOCK_SECONDS / 2 else pages, PAGES_LIMIT))
                if took > LOCK_SECONDS:
                    pages = max(1, int(pages * LOCK_SECONDS / took))
                for start in range(0, len(rows), CHUNK_ROWS):
                    yield rows[start : start + CHUNK_ROWS]
        yield []

    def _stretch(
        self, connection: Connection, snapshot: str, page: int, until: int, uncarried: list[str]
    ) -> tuple[list[KeyedLine], int]:
        """The rows of the pages from ``page`` on, before ``until``, and how many pages there are."""
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
            if not self._one(connection, "SELECT to_regclass(%(name)s) IS NOT NULL", name=self._name)[0]:
                raise self._changed()
            source = own_rows(connection, self._definition)
            connection.execute(f"LOCK TABLE {source} IN ACCESS SHARE MODE".encode())
            same, whole, size = self._one(connection, _FILES, name=self._name)
            if not (same and whole):
                raise self._changed()
            return self._read(connection, source, page, until, uncarried), int(size)
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")

    def _read(
        self, connection: Connection, source: str, page: int, until: int, uncarried: list[str]
    ) -> list[KeyedLine]:
        lines = RowLines(self._definition)
        values = f"num_nonnulls({listed(uncarried)}) > 0" if uncarried else "false"
        selected = ", ".join([*(quoted(name) for name in lines.names), values])
        where = f"ctid >= '({page},0)'::tid AND ctid < '({min(until, 2**32 - 1)},0)'::tid"
        statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(
            sql.SQL(selected), sql.SQL(source), sql.SQL(where)
        )
        key_of, rows = lines.key_of, list[KeyedLine]()
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for data in copy:
                line, _, has_value = bytes(data)[:-1].rpartition(b"\t")
                if has_value == b"t":
                    raise self._not_carried(uncarried)
                rows.append((key_of(line), line))
        return rows

    def _changed(self) -> Unavailable:
        message = "the table was rewritten, emptied or dropped while it was read"
        return Unavailable("table_changed", message, place=self._place, cure="compare it again")

    def _not_carried(self, uncarried: list[str]) -> Halted:
        message = f"the column {', '.join(uncarried)} has values that no block carries"
        cure = "update any row of it, to the same values: the log then tells of the column, or why it cannot"
        return Halted("column_not_carried", message, place=self._place, cure=cure)

    def _one(self, connection: Connection, query: str, **values: str) -> tuple[Any, ...]:
        row = connection.execute(query.encode(), values or None).fetchone()
        assert row is not None
        return row
