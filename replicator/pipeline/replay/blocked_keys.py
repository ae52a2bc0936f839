"""Which keys wait: what a statement touches, and behind what it has to stay.

Guarantee: a statement that touches a key of which an earlier statement is set aside waits, too, and its keys with it.
So the statements of one key are never done out of order. Whatever touches no such key goes on.

The idea: keys are told apart by their canonical texts (``format/values.py``), which stay the same when a table's
definition changes. Where two texts can be one key (``1.0`` and ``1.00``), where a key cannot be read, and for TRUNCATE,
the whole table waits. Rows of a table without a key are independent of each other: none waits, save behind a TRUNCATE.

A TRUNCATE that is done makes what is open of its table void. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from replicator.format.definition import Column, Definition, unpack_definition
from replicator.format.keys import key_reader
from replicator.format.row import UNCHANGED, pack_row, unpack_row
from replicator.format.statement import DEFINE, DELETE, PATCH, TRUNCATE, UPDATE
from replicator.format.values import kind_of, text_of
from replicator.pipeline.replicas.quarantine import Place, QuarantinedStatement

Key = tuple[str, ...]
Name = tuple[str, str]

# Types of which two different canonical texts are always two different values.
_EXACT = frozenset(
    ("bool", "int2", "int4", "int8", "oid", "text", "varchar", "uuid", "bytea", "date", "timestamp", "timestamptz")
)
_EXACT_WITH_MODIFIER = frozenset(("numeric", "bpchar"))  # numeric(12,2) prints every value with two digits
UNREADABLE = (ValueError, KeyError, TypeError, IndexError, struct.error)


class StatementKeys(NamedTuple):
    """What a statement touches: the key of its row, and the key before if that changes. ``whole``: whatever those say,
    nothing of the table may pass it."""

    key: Key | None
    before: Key | None
    whole: bool

    @property
    def keys(self) -> list[Key]:
        """The keys that are known."""
        return [key for key in (self.key, self.before) if key is not None]


class KeyExtractor:
    """Tells what statements on one definition's rows, and TRUNCATEs of its table, touch."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._columns = [definition.columns[place] for place in definition.key_places]
        self._whole = not tells_apart(definition)
        self._key_of = key_reader(definition) if definition.key else None

    def __call__(self, statement: list[Any]) -> StatementKeys:
        if statement[0] == TRUNCATE:
            return StatementKeys(None, None, whole=True)
        if self._key_of is None:
            return StatementKeys(None, None, whole=False)
        try:
            key, before = self._images(self._key_of, statement)
            return StatementKeys(self._texts(key), None if before is None else self._texts(before), self._whole)
        except UNREADABLE:
            return StatementKeys(None, None, whole=True)

    def _images(self, key_of: Callable[[bytes], bytes], statement: list[Any]) -> tuple[bytes, bytes | None]:
        """The key image of the row, and the one before if it is another. Raises one of ``UNREADABLE``."""
        op, row = statement[0], statement[2]
        if op == DELETE:
            return row, None
        before = statement[3] if op in (UPDATE, PATCH) else None
        key = self._patched(row, before) if op == PATCH else key_of(row)
        return key, None if before == key else before

    def _patched(self, row: bytes, before: bytes | None) -> bytes:
        """The key of a row whose unchanged columns may be in the key: those are as they were before."""
        cells = unpack_row(row)
        if len(cells) != len(self._definition.columns):
            raise ValueError("a row image with another count of columns")
        key = [cells[place] for place in self._definition.key_places]
        if before is not None:
            key = [old if new is UNCHANGED else new for old, new in zip(unpack_row(before), key, strict=True)]
        return pack_row(key)

    def _texts(self, image: bytes) -> Key:
        texts = []
        for column, cell in zip(self._columns, unpack_row(image), strict=True):
            if not isinstance(cell, bytes):
                raise ValueError("a key with a column that is null or unchanged")
            texts.append(text_of(column)(cell))
        return tuple(texts)


def tells_apart(definition: Definition) -> bool:
    """Whether different texts of the table's key are always different keys."""
    return all(_is_exact(definition.columns[place]) for place in definition.key_places)


def _is_exact(column: Column) -> bool:
    kind = kind_of(column.type)
    return kind in _EXACT or (kind in _EXACT_WITH_MODIFIER and "(" in column.type)


class _BlockedTable:
    """What is open of one table: the place of every statement, the first place of each key, and the first place of a
    statement behind which the whole table waits."""

    __slots__ = ("keys", "places", "whole")

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.keys: dict[Key, Place] = {}
        self.whole: Place | None = None


class BlockedKeys:
    """What is open in a strand. ``definitions`` are those in force; ``define`` follows them."""

    def __init__(self, definitions: Mapping[int, Definition], statements: Iterable[QuarantinedStatement] = ()) -> None:
        self._definitions = dict(definitions)
        self._tables: dict[Name, _BlockedTable] = {}
        self._watched: set[int] = set()
        self._extractors: dict[int, KeyExtractor] = {}
        self.count = 0
        for statement in statements:
            definition = self._definitions.get(statement.relation)
            self.add(statement.name, statement.place, touched_by(definition, statement))

    def concerns(self, statement: list[Any]) -> bool:
        """Whether ``behind`` or ``define`` has to be asked at all: the hot path's question."""
        op = statement[0]
        return (op <= TRUNCATE and statement[1] in self._watched) or op == DEFINE

    def definition(self, relation: int) -> Definition | None:
        """What rows of this relation are read by."""
        return self._definitions.get(relation)

    def touched(self, statement: list[Any]) -> StatementKeys:
        """What a statement on a row, or a TRUNCATE, of a relation that is defined touches."""
        extractor = self._extractors.get(statement[1])
        if extractor is None:
            extractor = self._extractors[statement[1]] = KeyExtractor(self._definitions[statement[1]])
        return extractor(statement)

    def behind(self, name: Name, touched: StatementKeys) -> Place | None:
        """The place of the statement that one which touches this has to stay behind; None if it may pass."""
        table = self._tables.get(name)
        if table is None:
            return None
        if table.whole is not None:
            return table.whole
        if touched.whole:  # its key may be any of those that wait
            return min(table.keys.values(), default=None)
        return min((table.keys[key] for key in touched.keys if key in table.keys), default=None)

    def add(self, name: Name, place: Place, touched: StatementKeys) -> None:
        """A statement that touches this was set aside."""
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = _BlockedTable()
            self._watched |= self._relations_of(name)
        table.places.append(place)
        self.count += 1
        for key in touched.keys:
            table.keys.setdefault(key, place)  # the first stays: whatever comes later on the key waits behind it, too
        if touched.whole and table.whole is None:
            table.whole = place

    def void(self, name: Name) -> list[Place]:
        """A TRUNCATE of the table was done: the places that it made void."""
        table = self._tables.pop(name, None)
        if table is None:
            return []
        self.count -= len(table.places)
        self._watched -= self._relations_of(name)
        return table.places

    def define(self, statement: list[Any]) -> None:
        """A DEFINE: from here on its relation means this definition. What is held stays held: texts do not change."""
        relation, definition = statement[1], unpack_definition(statement[2])
        self._definitions[relation] = definition
        self._extractors.pop(relation, None)
        if definition.name in self._tables:
            self._watched.add(relation)

    def keys(self) -> dict[Name, int]:
        """How many keys wait in each table that has anything open; tables that wait as a whole count what is known."""
        return {name: len(table.keys) for name, table in self._tables.items()}

    def _relations_of(self, name: Name) -> set[int]:
        """The relations that have meant this table, in any of its definitions."""
        return {relation for relation, definition in self._definitions.items() if definition.name == name}


def touched_by(definition: Definition | None, statement: QuarantinedStatement) -> StatementKeys:
    """What a statement that was set aside touches; ``definition`` is its relation's, None if that is not known."""
    key, before = statement.key, statement.key_before
    if statement.op == "truncate" or definition is None:
        return StatementKeys(key, before, whole=True)
    if not definition.key:
        return StatementKeys(None, None, whole=False)
    return StatementKeys(key, before, whole=key is None or not tells_apart(definition))
