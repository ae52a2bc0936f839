"""Rows as the journal left them: read in canonical text, completed, and carried to the definition in force.

Guarantee: a row that was written under any earlier definition of its table reads here as a replica holds it that has
followed every definition since: columns that were dropped are gone, renamed ones kept, those added hold what rows
older than them read as. A statement is judged from one key: it leaves a row there, or none.

Keys are *canonical keys*: the key's canonical texts packed as a row, whatever form the source sent them in. In a table
without a key a row is told by where it was inserted, (sequence, ordinal), as on replicas. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

from replicator.format.definition import Column, Definition
from replicator.format.evolution import changes
from replicator.format.row import UNCHANGED, Unchanged, pack_row, unpack_row
from replicator.format.statement import DELETE, INSERT, PATCH, TRUNCATE
from replicator.format.values import text_of

Place = tuple[int, int]  # of a statement: sequence and ordinal
Text = str | None | Unchanged
PLACE_COLUMNS = tuple(Column(name, "bigint", nullable=False) for name in ("_sequence", "_ordinal"))


def as_stored(definition: Definition) -> Definition:
    """The definition by which a replica's rows are written in canonical text, found by key in every table. It is one of
    plain rows: what is set right may go back to an older version of a document, which replay never does."""
    stored = dataclasses.replace(definition.in_text(), documents=False)
    if definition.key:
        return stored
    key = tuple(column.name for column in PLACE_COLUMNS)
    return dataclasses.replace(stored, columns=(*PLACE_COLUMNS, *stored.columns), key=key)


def pack_texts(texts: Sequence[str | None]) -> bytes:
    """Canonical texts as an image: a row's by ``as_stored``, or a canonical key."""
    return pack_row([None if text is None else text.encode() for text in texts])


def unpack_texts(image: bytes) -> list[str | None]:
    """The texts of such an image."""
    return [cell.decode() if isinstance(cell, bytes) else None for cell in unpack_row(image)]


def place_key(place: Place) -> bytes:
    """The canonical key of a row that was inserted there into a table without a key."""
    return pack_texts([str(number) for number in place])


class RowImages:
    """Reads one definition's images as canonical texts."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._read: list[Callable[[bytes], str]] = [text_of(column) for column in definition.columns]
        self._places = definition.key_places
        self._read_key = [self._read[place] for place in self._places]
        self._key_is_text = all(definition.columns[place].format == "text" for place in self._places)

    def key(self, image: bytes) -> bytes:
        """A key image as a canonical key."""
        if self._key_is_text:
            return image
        cells = zip(unpack_row(image), self._read_key, strict=True)
        return pack_row([read(cell).encode() if isinstance(cell, bytes) else None for cell, read in cells])

    def row(self, image: bytes, key_before: bytes | None) -> list[Text]:
        """A row image; columns of the key that are unchanged are those of the key image before."""
        cells = unpack_row(image)
        if key_before is not None:
            for place, cell in zip(self._places, unpack_row(key_before), strict=True):
                if cells[place] is UNCHANGED:
                    cells[place] = cell
        pairs = zip(self._read, cells, strict=True)
        return [read(cell) if isinstance(cell, bytes) else cell for read, cell in pairs]

    def key_of(self, row: Sequence[Text]) -> bytes:
        """The canonical key of a row's texts."""
        return pack_texts([cast("str | None", row[place]) for place in self._places])


class Effect(NamedTuple):
    """What a statement leaves under a key: its row (None: nothing), and the key that its unchanged columns are of."""

    row: list[Text] | None
    source_key: bytes


def effect(statement: Sequence[Any], images: RowImages, key: bytes) -> Effect:
    """What ``statement``, which touches ``key``, leaves there. Raises ValueError at an image that cannot be read."""
    op = statement[0]
    if op in (DELETE, TRUNCATE):
        return Effect(None, key)
    before = statement[3] if op != INSERT else None
    row = images.row(statement[2], before if op == PATCH else None)
    if images.definition.key and images.key_of(row) != key:
        return Effect(None, key)  # a change of key is touched by both of its keys: the row left this one
    return Effect(row, key if before is None else images.key(before))


def fill(row: Sequence[Text], older: Sequence[Text]) -> list[Text]:
    """The row with its unchanged columns from an older one of the same columns."""
    return [old if new is UNCHANGED else new for new, old in zip(row, older, strict=True)]


class RowMigration:
    """Takes rows along definitions of a table that follow each other, from the first to the last."""

    def __init__(self, path: Sequence[Definition]) -> None:
        # For each column where its value comes from: a place in the row, or what rows older than the column read as.
        # Step by step: a column that was dropped and added again under its name is another one.
        at: dict[str, int | tuple[str | None]] = {column.name: place for place, column in enumerate(path[0].columns)}
        for old, new in pairwise(path):
            changed = changes(old, new)
            for name in changed.dropped:
                del at[name]
            for before, after in changed.renamed:
                at[after] = at.pop(before)
            for column in changed.added:
                at[column.name] = (column.missing,)
        self._from = [at[column.name] for column in path[-1].columns]

    def carry(self, row: Sequence[Text]) -> list[Text]:
        """The row in the last definition's columns."""
        return [row[where] if isinstance(where, int) else where[0] for where in self._from]
