"""A region's rows at one moment, cut into chunks.

Guarantee: every row of every table once, then the end with their number. The order is the database's. Memory holds a
chunk. All calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from replicator.format.definition import Definition
from replicator.format.row import pack_row
from replicator.pipeline.copies.wire import Chunk, CopyEnd
from replicator.pipeline.replicas.base import Reader, SetSequence

CHUNK_BYTES = 1 << 20

Place = tuple[int, int]


class CopyReader(Reader, Protocol):
    """A reader that a copy can be made from."""

    def placed_rows(self, table: str) -> Iterator[tuple[list[str | None], Place | None]]:
        """As ``rows``, each with its (sequence, ordinal) if the table keeps that."""

    def missing(self) -> list[Definition]:
        """The tables that are defined and that the database does not have: dropped where nobody heard of it."""

    def sequences(self) -> list[SetSequence]:
        """The sequences' values, as far as this database keeps them."""

    def about_rows(self, table: str) -> int | None:
        """How many rows there are, about, if that is quickly known."""


def chunks(
    reader: CopyReader,
    tables: dict[int, Definition],
    at: int,
    sequences: Callable[[], list[SetSequence]],
    chunk_rows: int,
) -> Iterator[Chunk | CopyEnd]:
    """The chunks of these tables (by relation), numbered from 1. Rows without a place get (``at``, running number)."""
    number, total = 0, 0
    for relation, definition in tables.items():
        rows: list[bytes] = []
        places: list[Place] | None = None if definition.key else []
        size = 0
        for ordinal, (cells, place) in enumerate(reader.placed_rows(definition.label)):
            row = pack_row([None if cell is None else cell.encode() for cell in cells])
            rows.append(row)
            if places is not None:
                # Replicas tell rows without a key by their place. A primary keeps none, so they get one that no block
                # behind the moment has: those begin at the next sequence.
                places.append((at, ordinal) if place is None else place)
            size += len(row)
            if len(rows) >= chunk_rows or size >= CHUNK_BYTES:
                number, total = number + 1, total + len(rows)
                yield Chunk(number, relation, rows, places)
                rows, places, size = [], None if definition.key else [], 0
        if rows:
            number, total = number + 1, total + len(rows)
            yield Chunk(number, relation, rows, places)
    yield CopyEnd(number + 1, total, sequences())
