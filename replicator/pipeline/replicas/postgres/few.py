"""Writing a few rows: prepared statements with the row's own bytes as parameters, all in one round trip.

A staged COPY costs about a millisecond whatever it carries; up to ``FEW_ROWS`` rows this takes half of that. Also the
way for changes that COPY cannot express: rows with unchanged columns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import Buffer, Dumper

from replicator.errors import Corrupt, Halted
from replicator.format.definition import Definition
from replicator.format.row import UNCHANGED, Cell, pack_row, unpack_row
from replicator.pipeline.replicas.postgres.rows import PostgresRows
from replicator.pipeline.replicas.shape import version_falls
from replicator.postgres.session import Connection

FEW_ROWS = 12
FEW_BYTES = 256 * 1024
SELECT_ROWS = 100


class BinaryValue(bytes):
    """A value in binary form, of the type that its place in the statement has."""


class TextValue(bytes):
    """A value in text form, of the type that its place in the statement has."""


class _BinaryDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: bytes) -> Buffer:
        return obj


class _TextDumper(_BinaryDumper):
    format = pq.Format.TEXT


Parameters = list[BinaryValue | TextValue | None]


def prepare(connection: Connection) -> None:
    """Teach a session to take ``BinaryValue`` and ``TextValue``."""
    connection.adapters.register_dumper(BinaryValue, _BinaryDumper)
    connection.adapters.register_dumper(TextValue, _TextDumper)


def is_few(images: Sequence[bytes]) -> bool:
    """Whether these rows are better written one by one."""
    return len(images) <= FEW_ROWS and sum(map(len, images)) <= FEW_BYTES


class FewRows:
    """Statements for one table, row by row. Methods tell how many rows were not as the source knew them."""

    def __init__(self, connection: Connection, rows: PostgresRows) -> None:
        self._connection = connection
        self._rows = rows

    def delete(self, keys: Sequence[bytes]) -> int:
        """Delete by key images."""
        found = self._run((self._rows.delete(), self._key(key)) for key in keys)
        return sum(1 for cursor in found if cursor.rowcount == 0)

    def upsert(self, images: Sequence[bytes], places: Sequence[tuple[int, int]] = ()) -> int:
        """Rows that end as they are given, in one statement; the count of those that were not there before."""
        rows = [self._row(image) for image in images]
        for row, place in zip(rows, places, strict=bool(places)):
            row.extend(BinaryValue(struct.pack(">q", number)) for number in place)
        cursor = psycopg.RawCursor(self._connection)
        cursor.execute(self._rows.upsert(len(rows)), [cell for row in rows for cell in row], prepare=True)
        written = [fresh for (fresh,) in cursor]
        if self._rows.definition.documents and len(written) != len(rows):
            raise version_falls(self._rows.definition)
        return sum(written)

    def patch(self, images: Iterable[bytes]) -> None:
        """Rows with unchanged columns. Raises Halted if a row is not there."""
        changes = [self._changed(self._cells(image)) for image in images]
        statements = []
        for places, cells in changes:
            key_places = self._rows.definition.key_places
            set_places = [place for place in places if place not in key_places]
            if set_places:
                key = self._parameters([cells[place] for place in key_places], self._rows.key_formats)
                statements.append((self._rows.update(set_places), self._at(set_places, cells) + key))
        for cursor, (_, parameters) in zip(self._run(statements), statements, strict=True):
            if cursor.rowcount != 1:
                raise row_missing(self._rows.definition, parameters[-len(self._rows.definition.key) :])

    def move(self, key: bytes, image: bytes) -> int:
        """A row changes its key and keeps its unchanged columns. Whoever holds the new key is not known to the source,
        else the planner would have moved it away first. Raises Halted if the row is not there."""
        places, cells = self._changed(self._cells(image))
        before = self._key(key)
        after = self._parameters([cells[place] for place in self._rows.definition.key_places], self._rows.key_formats)
        statements = [(self._rows.update(places), self._at(places, cells) + before)]
        if after != before:
            statements.insert(0, (self._rows.delete_other(), after + before))
        *occupant, moved = self._run(statements)
        if moved.rowcount != 1:
            raise row_missing(self._rows.definition, before)
        return sum(cursor.rowcount for cursor in occupant)

    def stored(self, keys: Sequence[bytes]) -> list[list[str | None] | None]:
        """The rows of these key images as the server prints them, locked within a transaction; None where is none."""
        lock = self._connection.info.transaction_status != pq.TransactionStatus.IDLE
        stored: list[list[str | None] | None] = [None] * len(keys)
        for first in range(0, len(keys), SELECT_ROWS):
            some = keys[first : first + SELECT_ROWS]
            cursor = psycopg.RawCursor(self._connection)
            parameters = [cell for key in some for cell in self._key(key)]
            cursor.execute(self._rows.select(len(some), lock=lock), parameters, prepare=len(some) == SELECT_ROWS)
            for number, *row in texts_of(cursor):
                stored[first + int(number or 0)] = row
        return stored

    def stored_keys(self, after: bytes | None, limit: int) -> list[bytes]:
        """The keys behind ``after`` in key order, as key images of what the server prints."""
        parameters = [] if after is None else self._key(after)
        cursor = psycopg.RawCursor(self._connection)
        cursor.execute(self._rows.select_keys(limit, from_key=after is not None), parameters)
        return [pack_row([None if text is None else text.encode() for text in key]) for key in texts_of(cursor)]

    def _run(self, statements: Iterable[tuple[str, Parameters]]) -> list[psycopg.Cursor[Any]]:
        cursors: list[psycopg.Cursor[Any]] = []
        with self._connection.pipeline():
            for sql, parameters in statements:
                cursor = psycopg.RawCursor(self._connection)
                cursor.execute(sql, parameters, prepare=True)
                cursors.append(cursor)
        return cursors

    def _key(self, image: bytes) -> Parameters:
        return self._parameters(self._cells(image), self._rows.key_formats)

    def _at(self, places: Sequence[int], cells: Sequence[Cell]) -> Parameters:
        return self._parameters([cells[place] for place in places], [self._rows.formats[place] for place in places])

    def _changed(self, cells: Sequence[Cell]) -> tuple[list[int], Sequence[Cell]]:
        generated = self._rows.generated
        return [place for place, cell in enumerate(cells) if cell is not UNCHANGED and place not in generated], cells

    def _row(self, image: bytes) -> Parameters:
        row = self._parameters(self._cells(image), self._rows.formats)
        return [row[place] for place in self._rows.written] if self._rows.generated else row

    def _parameters(self, cells: Sequence[Cell], formats: Sequence[bool]) -> Parameters:
        if len(cells) != len(formats) or UNCHANGED in cells:
            raise self._bad_row(f"{len(cells)} columns, not {len(formats)}, or an unchanged one out of place")
        return [
            None if not isinstance(cell, bytes) else BinaryValue(cell) if binary else TextValue(cell)
            for cell, binary in zip(cells, formats, strict=True)
        ]

    def _cells(self, image: bytes) -> list[Cell]:
        try:
            return unpack_row(image)
        except ValueError as error:
            raise self._bad_row(str(error)) from error

    def _bad_row(self, problem: str) -> Corrupt:
        place = f"table {self._rows.definition.label}"
        cure = "verify the journal; report it if the journal is whole"
        return Corrupt("bad_row", f"a row image cannot be read: {problem}", place=place, cure=cure)


def texts_of(cursor: psycopg.Cursor | psycopg.RawCursor) -> list[list[str | None]]:
    """The answer's rows as the server printed them."""
    result = cursor.pgresult
    assert result is not None
    value, columns = result.get_value, range(result.nfields)
    return [
        [None if (data := value(row, column)) is None else str(data, "utf-8") for column in columns]
        for row in range(result.ntuples)
    ]


def row_missing(definition: Definition, key: Sequence[object]) -> Halted:
    """A row that is needed is gone."""
    return Halted(
        "replica_row_missing",
        "a row that the source changed in part is not in the replica, so its other columns are not known",
        place=f"table {definition.label}, key {key!r:.200}",
        cure="somebody else wrote to the replica: replicator repair CONFIG --key TABLE KEY --apply sets it right;"
        " then start the sidecar anew",
    )
