"""A window: what the blocks of a stretch of the journal leave of the keys that they touch.

Guarantee: for every key that a block of the window touches, the line that must stand in the ledger at the window's end,
None where there must be no row. Read by the definitions in force at the end. If a region was right at the window's
beginning and is right in these keys at its end, it is right: no other key was touched. Columns that no block of the
window sent (unchanged TOASTed values) are open: what stands there is not judged.

Statements are folded per key as they are added, so a key that changes a thousand times is looked at once. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from replicator.format.canonical import RowLines, line_of, texts_of
from replicator.format.definition import Definition, unpack_definition
from replicator.format.keys import key_reader
from replicator.format.row import UNCHANGED, Cell, pack_row, unpack_row
from replicator.format.statement import DEFINE, DELETE, INSERT, PATCH, SEQUENCE, TRUNCATE, UPDATE
from replicator.format.values import text_of
from replicator.verify.evidence import texts_under

Place = tuple[int, int]  # (sequence, ordinal)


class ExpectedLine(NamedTuple):
    """What must stand under a key: a line, no row (None), or some columns of one. ``sequence`` is the last block that
    touched it."""

    sequence: int
    line: bytes | None
    known: dict[str, str | None] | None = None  # for a row of which not every column is known

    def is_met_by(self, line: bytes | None, names: list[str]) -> bool:
        """Whether the region's line is as it must be. ``names`` are the columns in line order."""
        if self.known is None or line is None:
            return line == self.line if self.known is None else False
        texts = dict(zip(names, texts_of(line), strict=True))
        return all(texts[name] == text for name, text in self.known.items())


class StatementWindow:
    """Collects the statements of a stretch of blocks. ``definitions`` are those in force at its beginning."""

    def __init__(self, definitions: Mapping[int, Definition]) -> None:
        self.statements = 0
        self._definitions = dict(definitions)
        self._keyed: dict[int, _RelationKeys] = {}
        self._placed: dict[int, list[tuple[int, int, bytes]]] = {}
        self._truncated: dict[tuple[str, str], Place] = {}

    def add(self, sequence: int, statements: Iterable[list[Any]], ordinal: int = 0) -> None:
        """Take a block's statements; a large block's come part by part, from ``ordinal`` on. Raises ValueError or
        struct.error at what is no row."""
        for statement in statements:
            op = statement[0]
            relation_keys = self._keyed.get(statement[1]) if op <= DELETE else None
            if relation_keys is not None:
                relation_keys.take(op, statement, (sequence, ordinal))
            elif op < SEQUENCE:
                self._add_unusual(op, statement, (sequence, ordinal))
            ordinal += 1
            self.statements += 1

    def _add_unusual(self, op: int, statement: list[Any], place: Place) -> None:
        relation = statement[1]
        if op == DEFINE:
            self._definitions[relation] = unpack_definition(statement[2])
            return
        definition = self._definitions[relation]
        if op == TRUNCATE:
            self._truncated[definition.name] = place
        elif definition.key:
            relation_keys = self._keyed[relation] = _RelationKeys(definition)
            relation_keys.take(op, statement, place)
        elif op == INSERT:
            self._placed.setdefault(relation, []).append((*place, statement[2]))

    def labels(self) -> set[str]:
        """The tables that were touched."""
        names = {self._definitions[relation].label for relation in [*self._keyed, *self._placed]}
        return names | {table.label for table in self._definitions.values() if table.name in self._truncated}

    def is_truncated(self, definition: Definition) -> bool:
        """Whether all keys of the table were touched."""
        return definition.name in self._truncated

    def expected(self, definition: Definition) -> dict[bytes, ExpectedLine]:
        """What must stand under each touched key line (of a table without a key: each place), by ``definition``."""
        # A table may have had several relations in the window, and a key touches in each: the last one counts, and
        # nothing from before a truncate does.
        since = self._truncated.get(definition.name, (0, -1))
        expected_lines: dict[bytes, tuple[Place, ExpectedLine]] = {}
        for relation_keys in self._keyed.values():
            if relation_keys.definition.name == definition.name:
                for key, place, expected in relation_keys.expected(definition):
                    if place > since and (key not in expected_lines or place > expected_lines[key][0]):
                        expected_lines[key] = place, expected
        for relation, rows in self._placed.items():
            if self._definitions[relation].name == definition.name:
                read = _line_reader(self._definitions[relation], definition)
                for sequence, ordinal, image in rows:
                    if (sequence, ordinal) > since:
                        place = (sequence, ordinal)
                        expected_lines[b"%d %d" % place] = place, ExpectedLine(sequence, read(unpack_row(image)))
        return {key: expected for key, (_, expected) in expected_lines.items()}


class _RelationKeys:
    """The keys of one relation that were touched: for each, where last, and its image after that."""

    __slots__ = ("_key_of", "definition", "keys")

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.keys: dict[bytes, tuple[Place, bytes | None]] = {}
        self._key_of = key_reader(definition)

    def take(self, op: int, statement: list[Any], place: Place) -> None:
        image = statement[2]
        if op == DELETE:
            self.keys[image] = place, None  # not forgotten: that there is no row must be seen, too
            return
        before = statement[3] if op != INSERT else None
        if op == PATCH:
            self._patch(image, before, place)
            return
        key = self._key_of(image)
        if op == UPDATE and before is not None and before != key:
            self.keys[before] = place, None
        self.keys[key] = place, image

    def _patch(self, image: bytes, before: bytes | None, place: Place) -> None:
        """A row with unchanged columns: what is known of them here is filled in."""
        cells = unpack_row(image)
        places = self.definition.key_places
        if before is not None:
            for number, cell in zip(places, unpack_row(before), strict=True):
                cells[number] = cell if cells[number] is UNCHANGED else cells[number]
        key = pack_row([cells[number] for number in places])
        old = key if before is None else before
        # What an earlier statement of the window left there; if that deleted the row, or none was, columns stay open.
        _, known = self.keys.get(old, (place, None))
        if known is not None:
            cells = [a if b is UNCHANGED else b for a, b in zip(unpack_row(known), cells, strict=True)]
        if old != key:
            self.keys[old] = place, None
        self.keys[key] = place, pack_row(cells)

    def expected(self, now: Definition) -> Iterator[tuple[bytes, Place, ExpectedLine]]:
        """Each key line, where it was touched last, and what must stand there by the definition ``now``."""
        read, key_line = _line_reader(self.definition, now), _key_reader(self.definition)
        key_of = RowLines(now).key_of
        for key, (place, image) in self.keys.items():
            if image is None:
                yield key_line(key), place, ExpectedLine(place[0], None)
                continue
            cells = unpack_row(image)
            if UNCHANGED in cells:
                known = texts_under(cells, self.definition, now, None)
                yield key_line(key), place, ExpectedLine(place[0], None, known)
            else:
                line = read(cells)
                yield key_of(line), place, ExpectedLine(place[0], line)


def _line_reader(old: Definition, now: Definition) -> Callable[[Sequence[Cell]], bytes]:
    """Reads whole rows of the definition ``old`` as lines by ``now``."""
    lines = RowLines(now)
    if old == now:
        return lines.line

    def read(cells: Sequence[Cell]) -> bytes:
        texts = texts_under(cells, old, now, None)
        return line_of([texts[name] for name in lines.names])

    return read


def _key_reader(definition: Definition) -> Callable[[bytes], bytes]:
    """Reads key images as key lines."""
    texts = [text_of(definition.columns[place]) for place in definition.key_places]

    def read(image: bytes) -> bytes:
        cells = zip(texts, unpack_row(image), strict=True)
        return line_of([of(cell) if isinstance(cell, bytes) else None for of, cell in cells])

    return read
