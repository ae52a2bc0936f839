"""The places of rows in tables without a key: found again in the journal when a primary's table becomes a replica's.

A table without a key is only ever added to, or truncated: an UPDATE or DELETE needs a replica identity. So its rows are
what the journal has inserted since the last truncate, and rows that are alike to the letter may change places with each
other. A primary's table has no places; each row gets that of an insert of the same canonical line.

Guarantee: afterwards a row has the place that it has on every replica of the same chain. So a rewind undoes the rows of
the orphans and no other, and a comparison by place finds nothing where nothing differs. What the journal does not know,
because it begins later, is numbered at the journal's beginning, before everything that can ever be undone.

Cost: the journal and the table are read once; memory is bounded. All calls block, within one transaction.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

from psycopg import sql

from replicator.format.canonical import RowLines, line_of
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.format.row import Cell, unpack_row
from replicator.format.statement import INSERT, TRUNCATE, statement_runs
from replicator.pipeline.replicas.postgres import lines, user_schema
from replicator.postgres.catalog import TableName
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Connection
from replicator.storage.journal.store import Journal
from replicator.verify.evidence import texts_under

READ_BYTES = 1 << 20
SPOOL_BYTES = 1 << 16
_HASH_BYTES = 16
# ``number`` is the table's among those that are given places in one call.
_STAGES = (
    "CREATE TEMP TABLE replicator_inserts (number int, line bytea, sequence bigint, ordinal bigint) ON COMMIT DROP",
    "CREATE TEMP TABLE replicator_rows (place tid, line bytea) ON COMMIT DROP",
)
# Among rows that are alike the first one gets the first place.
_GIVE_PLACES = """
UPDATE ONLY {table} AS t
   SET _sequence = coalesce(known.sequence, {base}), _ordinal = coalesce(known.ordinal, here.number)
  FROM (SELECT place, line, row_number() OVER (ORDER BY place) - 1 AS number,
               row_number() OVER (PARTITION BY line ORDER BY place) AS alike FROM pg_temp.replicator_rows) AS here
  LEFT JOIN (SELECT line, sequence, ordinal, row_number() OVER (PARTITION BY line ORDER BY sequence, ordinal) AS alike
               FROM pg_temp.replicator_inserts
              WHERE number = {number} AND (sequence, ordinal) > ({after_sequence}, {after_ordinal})) AS known
         USING (line, alike)
 WHERE t.ctid = here.place
"""

Place = tuple[int, int]


class _Table:
    """A table that is given places: which of its columns tell its rows apart, and where it was truncated last."""

    def __init__(self, connection: Connection, number: int, definition: Definition) -> None:
        made_here = user_schema.generated_columns(
            connection, definition
        )  # not the ledger's word, and never in a row of it
        self.number = number
        self.definition = definition
        self.names = [name for name in RowLines(definition).names if name not in made_here]
        self.truncated: Place = (0, -1)

    def line_reader(self, old: Definition) -> Callable[[Sequence[Cell]], bytes]:
        """Reads rows of an older definition of the table as lines of these columns."""
        if old == self.definition and len(self.names) == len(old.columns):
            return RowLines(old).line

        def read(cells: Sequence[Cell]) -> bytes:
            texts = texts_under(cells, old, self.definition, None)
            return line_of([texts[name] for name in self.names])

        return read


def give_places(connection: Connection, journal: Journal, position: Position, wanted: Sequence[Definition]) -> None:
    """Fill the place columns, which are there and empty, of these tables; their rows are those of the position."""
    if not wanted:
        return
    for stage in _STAGES:
        connection.execute(stage.encode())
    tables = {d.name: _Table(connection, number, d) for number, d in enumerate(wanted)}
    with connection.cursor() as cursor, cursor.copy("COPY pg_temp.replicator_inserts FROM STDIN") as copy:
        for number, line, (sequence, ordinal) in _inserts(journal, position, tables):
            copy.write_row((number, _hash(line), sequence, ordinal))
    connection.execute("ANALYZE pg_temp.replicator_inserts")
    base = journal.base(position.strand).sequence
    for table in tables.values():
        _stage_rows(connection, table)
        connection.execute(
            sql.SQL(_GIVE_PLACES).format(
                table=sql.SQL(quoted(*table.definition.name)),
                base=sql.Literal(base),
                number=sql.Literal(table.number),
                after_sequence=sql.Literal(table.truncated[0]),
                after_ordinal=sql.Literal(table.truncated[1]),
            )
        )


def _inserts(
    journal: Journal, position: Position, tables: Mapping[TableName, _Table]
) -> Iterator[tuple[int, bytes, Place]]:
    """(the table's number, line, place) of each row that the journal has inserted into these tables."""
    strand = position.strand
    after = journal.base(strand).sequence
    readers = {
        relation: (table, table.line_reader(definition))
        for relation, definition in journal.definitions(strand, position.sequence).items()
        if (table := tables.get(definition.name)) is not None
    }
    parts = functools.partial(journal.parts, strand)
    while after < position.sequence and (blocks := journal.blocks(strand, after, READ_BYTES)):
        after = blocks[-1].header.sequence
        for sequence, first, statements in statement_runs(
            [block for block in blocks if block.header.sequence <= position.sequence], parts
        ):
            for ordinal, statement in enumerate(statements, first):
                if statement[0] in (INSERT, TRUNCATE) and statement[1] in readers:
                    table, read = readers[statement[1]]
                    if statement[0] == TRUNCATE:
                        table.truncated = (sequence, ordinal)
                    else:
                        yield table.number, read(unpack_row(statement[2])), (sequence, ordinal)


def _stage_rows(connection: Connection, table: _Table) -> None:
    """Every row's address in the table, and its line."""
    connection.execute("TRUNCATE pg_temp.replicator_rows")
    columns = ", ".join(["ctid", *map(quoted, table.names)])
    rows = f"SELECT {columns} FROM {lines.own_rows(connection, table.definition)}"
    # One session reads or writes: what was read waits in a file, which has no name and goes with its handle.
    with tempfile.TemporaryFile() as spool, connection.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY ({}) TO STDOUT").format(sql.SQL(rows))) as copy:
            for data in copy:
                address, _, line = bytes(data)[:-1].partition(b"\t")
                spool.write(b"%b\t\\\\x%b\n" % (address, _hash(line).hex().encode()))
        spool.seek(0)
        with cursor.copy("COPY pg_temp.replicator_rows FROM STDIN") as copy:
            while chunk := spool.read(SPOOL_BYTES):
                copy.write(chunk)
    connection.execute("ANALYZE pg_temp.replicator_rows")


def _hash(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=_HASH_BYTES).digest()
