"""Statements: the changes in a block's body.

A body is statements one after another, each a msgpack array that begins with its operation:

    [1 INSERT,   relation, row]
    [2 UPDATE,   relation, row, key before or nil]     nil: the key stays
    [3 PATCH,    relation, row, key before or nil]     as UPDATE, but some columns of the row are *unchanged*
    [4 DELETE,   relation, key]
    [5 TRUNCATE, relation]
    [6 DEFINE,   relation, definition]
    [7 SEQUENCE, namespace, name, value, increment]    the sequence has handed out ``value``
    [8 MESSAGE,  prefix, content]                      a note in the log; changes no table

``row`` and ``key`` are images (``format/row.py``), ``definition`` is packed (``format/definition.py``). A statement's
place among all statements of its block, from 0, is its *ordinal*. Guarantee: what is not one of these is refused, never
skipped.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgpack

from replicator.errors import Corrupt
from replicator.format.block import Block, BlockPart
from replicator.format.definition import Definition, pack_definition

STATEMENT_LIMIT_BYTES = 1 << 30  # PostgreSQL's own limit of a field


class Op(enum.IntEnum):
    """What a statement does."""

    INSERT = 1
    UPDATE = 2
    PATCH = 3
    DELETE = 4
    TRUNCATE = 5
    DEFINE = 6
    SEQUENCE = 7
    MESSAGE = 8


# Plain ints for the hot path: comparing an IntEnum member costs a lookup per row.
INSERT, UPDATE, PATCH, DELETE, TRUNCATE, DEFINE, SEQUENCE, MESSAGE = (int(op) for op in Op)

_pack = msgpack.Packer().pack


def pack_insert(relation: int, row: bytes) -> bytes:
    """A row that was not there before."""
    return _pack((INSERT, relation, row))


def pack_update(relation: int, row: bytes, key_before: bytes | None = None) -> bytes:
    """A row's new image; ``key_before`` where its key changed."""
    return _pack((UPDATE, relation, row, key_before))


def pack_patch(relation: int, row: bytes, key_before: bytes | None = None) -> bytes:
    """A row's new image in which some columns are unchanged."""
    return _pack((PATCH, relation, row, key_before))


def pack_delete(relation: int, key: bytes) -> bytes:
    """The row of this key goes."""
    return _pack((DELETE, relation, key))


def pack_truncate(relation: int) -> bytes:
    """All rows of the table go."""
    return _pack((TRUNCATE, relation))


def pack_define(relation: int, definition: Definition) -> bytes:
    """Rows that name ``relation`` from here on are read by ``definition``."""
    return _pack((DEFINE, relation, pack_definition(definition)))


def pack_sequence(namespace: str, name: str, value: int, increment: int) -> bytes:
    """A sequence's last value that was handed out."""
    return _pack((SEQUENCE, namespace, name, value, increment))


def pack_message(prefix: str, content: bytes) -> bytes:
    """A message that the source's user wrote into its log."""
    return _pack((MESSAGE, prefix, content))


def pack_statement(statement: list[Any]) -> bytes:
    """A statement as ``unpack_statements`` gives it."""
    return _pack(statement)


_None = type(None)
_SHAPES: dict[int, set[tuple[type, ...]]] = {
    INSERT: {(int, int, bytes)},
    UPDATE: {(int, int, bytes, bytes), (int, int, bytes, _None)},
    PATCH: {(int, int, bytes, bytes), (int, int, bytes, _None)},
    DELETE: {(int, int, bytes)},
    TRUNCATE: {(int, int)},
    DEFINE: {(int, int, bytes)},
    SEQUENCE: {(int, str, str, int, int)},
    MESSAGE: {(int, str, bytes)},
}
_ELEMENTS_LIMIT = 5


def unpack_bodies(blocks: Iterable[Block]) -> Iterator[tuple[int, Iterator[list[Any]]]]:
    """(sequence, statements) of each of these blocks, none of them large; the statements are to be read in this order.

    One pass over all bodies: what it costs to begin reading is paid once, not for every transaction of one row.
    Raises Corrupt at what is no statement, and if a block does not hold as many as its header says.
    """
    blocks = list(blocks)
    statements = unpack_statements(b"".join([block.body or b"" for block in blocks]))
    for block in blocks:
        yield block.header.sequence, itertools.islice(statements, block.header.statements)
    if next(statements, None) is not None:
        raise Corrupt("bad_statement", "the blocks hold more statements than their headers say")


def statement_runs(
    blocks: Iterable[Block], parts: Callable[[int], Iterable[BlockPart]]
) -> Iterator[tuple[int, int, Iterator[list[Any]]]]:
    """(sequence, ordinal of the first, statements) of these blocks, in order: a small block's together, a large one's
    part by part. ``parts`` gives a large block's by its sequence. Each run is to be read before the next is asked for.

    Raises Corrupt at what is no statement.
    """
    for is_large, some in itertools.groupby(blocks, key=lambda block: block.body is None):
        if not is_large:
            for sequence, statements in unpack_bodies(some):
                yield sequence, 0, statements
            continue
        for block in some:
            sequence, ordinal = block.header.sequence, 0
            for part in parts(sequence):
                yield sequence, ordinal, unpack_statements(part.data)
                ordinal += part.statements


def unpack_statements(body: bytes) -> Iterator[list[Any]]:
    """The statements of a body (or of several bodies in a row), each as a list that begins with its operation.

    Raises Corrupt at what is not one.
    """
    # Room for just this body: the default would set a megabyte aside for every block of a hundred bytes.
    unpacker = msgpack.Unpacker(
        read_size=max(len(body), 1),
        max_buffer_size=STATEMENT_LIMIT_BYTES,
        max_array_len=_ELEMENTS_LIMIT,
        max_map_len=0,
        max_ext_len=0,
    )
    end = len(body)
    try:
        unpacker.feed(body)
        for statement in unpacker:
            if tuple(map(type, statement)) not in _SHAPES[statement[0]]:
                raise ValueError(f"operation {statement[0]} with elements of another number or type")
            yield statement
        if unpacker.tell() != end:
            raise ValueError("the body ends within a statement")
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        raise Corrupt("bad_statement", f"a statement cannot be read: {error!r}") from error
