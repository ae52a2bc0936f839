"""What travels in a copy. msgpack; rows are images whose columns are all in text form.

    the copy     {"copy", "position", "committed_at", "high_at", "definitions": [[relation, definition], …],
                  "rows": how many there are, about, or nil}
    a chunk      [number, relation, [row, …], [[sequence, ordinal], …] or nil]       places: tables without a key
    the last     [number, 0, rows in all, [[namespace, name, value, increment], …]]

Guarantee: what is not one of these is Corrupt. Pure.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from replicator.errors import Corrupt
from replicator.format.definition import Definition, unpack_definition
from replicator.format.position import Position, parse_position
from replicator.pipeline.replicas.base import SetSequence

CONTENT_TYPE = "application/vnd.ledger-copy+msgpack"
ANSWER_LIMIT_BYTES = 1 << 30


class CopyStart(NamedTuple):
    """A copy that was begun: the moment, and what comes. ``rows`` is an estimate."""

    copy: str
    position: Position
    committed_at: int
    high_at: int
    definitions: list[tuple[int, bytes]]  # in the order in which they came into force
    rows: int | None


class Chunk(NamedTuple):
    """Rows of one table; ``places`` if it has no key."""

    number: int
    relation: int
    rows: list[bytes]
    places: list[tuple[int, int]] | None


class CopyEnd(NamedTuple):
    """The end: how many rows there were, and the sequences."""

    number: int
    rows: int
    sequences: list[SetSequence]


def in_force(definitions: list[tuple[int, bytes]]) -> dict[tuple[str, str], tuple[int, Definition]]:
    """Each table's last definition and its relation, by the table's name."""
    last: dict[tuple[str, str], tuple[int, Definition]] = {}
    for relation, data in definitions:
        definition = unpack_definition(data)
        last[definition.name] = relation, definition
    return last


def pack_begun(begun: CopyStart) -> bytes:
    """The first message of a copy, packed."""
    return msgpack.packb({**begun._asdict(), "position": str(begun.position)})


def unpack_begun(data: bytes) -> CopyStart:
    """The first message of a copy. Raises Corrupt."""
    try:
        fields = msgpack.unpackb(data)
        begun = CopyStart(
            str(fields["copy"]),
            parse_position(fields["position"]),
            int(fields["committed_at"]),
            int(fields["high_at"]),
            [(int(relation), bytes(packed)) for relation, packed in fields["definitions"]],
            None if fields["rows"] is None else int(fields["rows"]),
        )
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise _unreadable(error) from error
    in_force(begun.definitions)  # refused here if one cannot be read
    return begun


def pack_chunk(chunk: Chunk | CopyEnd) -> bytes:
    """A chunk or the end, packed."""
    if isinstance(chunk, CopyEnd):
        return msgpack.packb((chunk.number, 0, chunk.rows, chunk.sequences))
    return msgpack.packb(chunk)


def unpack_chunk(data: bytes, number: int) -> Chunk | CopyEnd:
    """The chunk of this number. Raises Corrupt."""
    try:
        match msgpack.unpackb(data):
            case [int() as got, 0, int() as rows, list() as sequences] if got == number:
                return CopyEnd(number, rows, [_sequence(*fields) for fields in sequences])
            case [int() as got, int() as relation, list() as rows, places] if got == number:
                if not all(type(row) is bytes for row in rows):
                    raise ValueError("a row that is none")
                placed = None if places is None else [(int(place[0]), int(place[1])) for place in places]
                if placed is not None and len(placed) != len(rows):
                    raise ValueError("places that do not fit the rows")
                return Chunk(number, relation, rows, placed)
            case _:
                raise ValueError("another shape, or number")
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise _unreadable(error) from error


def _sequence(namespace: Any, name: Any, value: Any, increment: Any) -> SetSequence:
    if not (isinstance(namespace, str) and isinstance(name, str) and type(value) is int and type(increment) is int):
        raise ValueError("a sequence that is none")
    return SetSequence(namespace, name, value, increment)


def _unreadable(error: Exception) -> Corrupt:
    cure = "check the other region's version; begin the copy again"
    return Corrupt("bad_copy", f"what came of the copy cannot be read: {error!r}", cure=cure)
