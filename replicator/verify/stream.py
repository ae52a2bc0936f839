"""A region's whole contents as a stream, at one position.

    [1 POSITION, position]                     text form; first
    [2 TABLE,    label, columns, key]          names; the rows that follow are of this table
    [3 ROWS,     [[value or nil, …], …]]       canonical text by column, in no order
    [4 END,      rows]                         how many rows there were in all; last

msgpack arrays one after another. Guarantee: a stream that was cut off is noticed: END and its count are missing then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgpack

from replicator.errors import Corrupt
from replicator.position import Position, parse_position

POSITION, TABLE, ROWS, END = range(1, 5)
CHUNK_ROWS = 1000
FRAME_LIMIT_BYTES = 1 << 31

Row = list[str | None]


class TableHead(NamedTuple):
    """A table's name, columns and key; no key: every row stands for itself."""

    label: str
    columns: list[str]
    key: list[str]


class Rows(NamedTuple):
    """Some rows of the table before."""

    rows: list[Row]


Piece = Position | TableHead | Rows


def pack_contents(position: Position, tables: Iterable[tuple[TableHead, Iterable[Row]]]) -> Iterator[bytes]:
    """The stream of these tables; ``tables`` and their rows are read once, in order."""
    yield msgpack.packb((POSITION, str(position)))
    total = 0
    for head, rows in tables:
        yield msgpack.packb((TABLE, head.label, head.columns, head.key))
        chunk: list[Row] = []
        for row in rows:
            chunk.append(row)
            if len(chunk) == CHUNK_ROWS:
                yield msgpack.packb((ROWS, chunk))
                total += len(chunk)
                chunk = []
        if chunk:
            yield msgpack.packb((ROWS, chunk))
            total += len(chunk)
    yield msgpack.packb((END, total))


class ContentsReader:
    """Pieces out of the stream's bytes. Sans-I/O; ``finish`` says whether it came whole."""

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker(max_buffer_size=FRAME_LIMIT_BYTES, max_array_len=100_000, max_map_len=0)
        self._rows = 0
        self._end: int | None = None

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Take bytes; gives the pieces that they complete. Raises Corrupt."""
        try:
            self._unpacker.feed(data)
            for raw in self._unpacker:
                match raw:
                    case [1, str() as text]:
                        yield parse_position(text)
                    case [2, str() as label, list() as columns, list() as key]:
                        yield TableHead(label, columns, key)
                    case [3, list() as rows]:
                        self._rows += len(rows)
                        yield Rows(rows)
                    case [4, int() as total]:
                        self._end = total
                    case _:
                        raise ValueError("a piece of an unknown shape")
        except (ValueError, msgpack.UnpackException) as error:
            raise Corrupt("bad_contents", f"the region's contents cannot be read: {error!r}", place="verify") from error

    def finish(self) -> None:
        """Raise Corrupt unless the stream came whole."""
        if self._end != self._rows:
            message = f"the stream broke off after {self._rows} rows"
            raise Corrupt("contents_cut_off", message, place="verify", cure="verify again; see the region's log")
