"""Which keys the statements of some blocks touch, and where each was touched last. Pure.

Guarantee: a key is touched by every statement after which its row may be another one: both keys of a change of key are,
and all keys of a table by its truncate. Statements that change no row touch nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from replicator.errors import Corrupt
from replicator.format.definition import Definition, unpack_definition
from replicator.format.keys import key_reader
from replicator.format.row import UNCHANGED, unpack_row
from replicator.format.statement import DEFINE, DELETE, INSERT, PATCH, SEQUENCE, TRUNCATE
from replicator.verify.repair.images import Place, RowImages, place_key


class _TouchedRelation:
    """How one relation's keys are read: its table's label, its images, and the key image of a row, if it has a key."""

    def __init__(self, definition: Definition) -> None:
        self.label = definition.label
        self.images = RowImages(definition)
        self.key_of: Callable[[bytes], bytes] | None = key_reader(definition) if definition.key else None


class TouchedKeys:
    """Gathers touches in the order of the journal. ``keys`` has the last place of each (table label, canonical key),
    ``truncated`` that of each table's truncate; ``tables``, if given, are the only ones looked at."""

    def __init__(self, definitions: Mapping[int, Definition], tables: frozenset[str] | None = None) -> None:
        self._relations = {number: _TouchedRelation(definition) for number, definition in definitions.items()}
        self._tables = tables
        self.clear()

    def clear(self) -> None:
        """Forget what was gathered, not the definitions."""
        self.keys: dict[tuple[str, bytes], Place] = {}
        self.truncated: dict[str, Place] = {}

    def add(self, sequence: int, statements: Iterable[list[Any]], ordinal: int = 0) -> None:
        """Take a block's statements, the first of which has this ordinal. Raises Corrupt."""
        for number, statement in enumerate(statements, ordinal):
            op = statement[0]
            try:
                if op == DEFINE:
                    self._relations[statement[1]] = _TouchedRelation(unpack_definition(statement[2]))
                elif op < SEQUENCE:
                    self._touch(op, statement, (sequence, number))
            except (ValueError, struct.error, KeyError) as error:
                place = f"sequence {sequence}, ordinal {number}"
                raise Corrupt("bad_row", f"a statement cannot be read: {error!r}", place=place) from error

    def _touch(self, op: int, statement: list[Any], place: Place) -> None:
        relation = self._relations[statement[1]]
        label = relation.label
        if self._tables is not None and label not in self._tables:
            return
        if op == TRUNCATE:
            self._note_truncate(label, place)
        elif relation.key_of is None:
            self._note(label, place_key(place), place)
        elif op == DELETE:
            self._note(label, relation.images.key(statement[2]), place)
        else:
            before = statement[3] if op != INSERT else None
            if before is not None:
                self._note(label, relation.images.key(before), place)
            self._note(label, _key_of(relation, statement[2], before if op == PATCH else None), place)

    def _note(self, label: str, key: bytes, place: Place) -> None:
        self.keys[label, key] = place

    def _note_truncate(self, label: str, place: Place) -> None:
        self.truncated[label] = place


def _key_of(relation: _TouchedRelation, image: bytes, before: bytes | None) -> bytes:
    assert relation.key_of is not None
    # A patch may leave columns of the key unchanged: those are in the key before.
    if before is not None and UNCHANGED in unpack_row(image):
        return relation.images.key_of(relation.images.row(image, before))
    return relation.images.key(relation.key_of(image))
