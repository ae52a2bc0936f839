"""What a key's row rightfully is: what the last statement that touched it left, completed from older ones.

Guarantee: a row given here is the journal's own. Where the journal does not hold what it takes (it begins later, or a
value is older than everything it has of the key), the answer is *unknown*, never a guess.

The last statement's place is the caller's (a resync has gathered it) or is found by the history index. The index is
brought as far as it takes. Right rows are remembered, so that who asks ahead of time finds them at hand.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple, Protocol, cast

from replicator.errors import Corrupt
from replicator.format.block import Header
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.format.row import UNCHANGED
from replicator.format.statement import INSERT, TRUNCATE
from replicator.verify.repair.images import (
    Effect,
    Place,
    RowImages,
    RowMigration,
    Text,
    as_stored,
    effect,
    fill,
    pack_texts,
    unpack_texts,
)
from replicator.verify.repair.statement_lookup import LocatedStatement, StatementJournal, StatementLookup

OLDER_AT_ONCE = 16
OLDER_LIMIT = 10_000  # statements looked at to complete one row
REMEMBERED_BYTES = 32 << 20
ENTRY_BYTES = 200  # what an entry takes beside its row, about

Row = list[str | None]


class RowHistory(Protocol):
    """The index over the region's journal."""

    def indexed(self, strand: str) -> int: ...
    def step(self, strand: str, until: int) -> int: ...
    def places(self, strand: str, table: str, key: bytes, before: Place | None, limit: int) -> list[Place]: ...


class OriginJournal(StatementJournal, Protocol):
    """The region's journal."""

    def base(self, strand: str) -> Position: ...


class ExpectedRow(NamedTuple):
    """A key's right row, in the order of the table's ``stored`` definition; None if there is none. ``unknown`` says why
    it cannot be told. ``header`` and ``place`` are those of the last statement; none if none ever touched the key."""

    row: Row | None
    place: Place | None
    header: Header | None
    unknown: str = ""

    @property
    def size(self) -> int:
        """About how many characters the row has."""
        return sum(len(text) for text in self.row or () if text is not None)


class TableVersions:
    """A table's definitions so far by relation, oldest first, and how its rows are read and written now. ``stored`` is
    the one in force, with every column as text and a key in every table."""

    def __init__(self, relations: dict[int, Definition]) -> None:
        self.relations = relations
        self.definition = list(relations.values())[-1]
        self.stored = as_stored(self.definition)
        self.label = self.definition.label
        self._key_places = self.stored.key_places
        self._images: dict[int, RowImages] = {}
        self._migrations: dict[tuple[int, int], RowMigration] = {}

    def key_of(self, row: Row) -> bytes:
        """The canonical key of a stored row."""
        return pack_texts([row[place] for place in self._key_places])

    def images(self, relation: int) -> RowImages:
        """Reads a relation's images. Raises Corrupt at one that is not of this table."""
        if relation not in self.relations:
            raise Corrupt("unknown_relation", f"relation {relation} is not of table {self.label}", place=self.label)
        if relation not in self._images:
            self._images[relation] = RowImages(self.relations[relation])
        return self._images[relation]

    def carry(self, row: list[Text], relation: int, to: int | None = None) -> list[Text]:
        """A relation's row in the columns of another one; of the one in force, without ``to``."""
        to = max(self.relations) if to is None else to
        if relation == to:
            return row
        if (relation, to) not in self._migrations:
            path = [definition for number, definition in self.relations.items() if relation < number <= to]
            self._migrations[relation, to] = RowMigration([self.relations[relation], *(path or [self.relations[to]])])
        return self._migrations[relation, to].carry(row)


def tables_of(definitions: Mapping[int, Definition]) -> dict[str, TableVersions]:
    """The tables by their labels, out of a replica's definitions."""
    by_label: dict[str, dict[int, Definition]] = {}
    for relation, definition in sorted(definitions.items()):
        by_label.setdefault(definition.label, {})[relation] = definition
    return {label: TableVersions(relations) for label, relations in by_label.items()}


class ExpectedRows:
    """Right rows of one strand. Not for more than one thread at a time."""

    def __init__(self, journal: OriginJournal, history: RowHistory, strand: str) -> None:
        self._journal = journal
        self._history = history
        self._strand = strand
        self._statements = StatementLookup(journal, strand)
        self._definitions: Mapping[int, Definition] = {}
        self._tables: dict[str, TableVersions] = {}
        self._remembered: dict[tuple[str, bytes, Place], ExpectedRow] = {}  # read ahead: replay does not wait for them
        self._remembered_bytes = 0

    def tables_so_far(self) -> dict[str, TableVersions]:
        """The tables as they were asked for last."""
        return self._tables

    def tables(self, definitions: Mapping[int, Definition]) -> dict[str, TableVersions]:
        """The tables of these definitions: the same objects for as long as nothing was defined anew, for replicas keep
        what they have prepared by the definition's identity."""
        if definitions != self._definitions:
            self._definitions = dict(definitions)
            self._tables = tables_of(definitions)
            self._remembered.clear()
            self._remembered_bytes = 0
        return self._tables

    def indexed(self) -> int:
        """How far the history index is."""
        return self._history.indexed(self._strand)

    def reach(self, sequence: int) -> None:
        """Bring the history index so far."""
        while self.indexed() < sequence:
            self._history.step(self._strand, sequence)

    def last_truncate(self, table: TableVersions, sequence: int) -> Place | None:
        """The last truncate of a table without a key, up to and with ``sequence``, which the index has reached."""
        places = self._history.places(self._strand, table.label, b"", (sequence + 1, 0), 1)
        return places[0] if places else None

    def last_place(self, table: TableVersions, key: bytes, sequence: int) -> Place | None:
        """Where the key was touched last, up to and with ``sequence``, which the index has reached."""
        places = self._history.places(self._strand, table.label, key, (sequence + 1, 0), 1)
        if table.definition.key:
            return places[0] if places else None
        # The index has the truncates of such a table only: its rows are told by where they were inserted, and that is
        # their key.
        inserted = cast(Place, tuple(int(text or 0) for text in unpack_texts(key)))
        if inserted[0] > sequence or not self._is_insert(table, inserted):
            return places[0] if places else None
        return max([inserted, *places])

    def _is_insert(self, table: TableVersions, place: Place) -> bool:
        try:
            _, statement = self._statements.at(place)
        except Corrupt as error:
            if error.reason == "not_in_journal":
                return False
            raise
        return statement[0] == INSERT and statement[1] in table.relations

    def _at(self, place: Place) -> LocatedStatement | None:
        """The statement there; None if the journal began there once and begins later now: the index may know more."""
        try:
            return self._statements.at(place)
        except Corrupt as error:
            if error.reason == "not_in_journal" and place[0] <= self._journal.base(self._strand).sequence:
                return None
            raise

    def right(self, table: TableVersions, key: bytes, place: Place | None) -> ExpectedRow:
        """The row that the statement at ``place``, the last that touched the key, left there."""
        if place is None:
            base = self._journal.base(self._strand).sequence
            return ExpectedRow(None, None, None, f"the journal begins behind sequence {base}" if base else "")
        row = self._remembered.get((table.label, key, place))
        if row is None:
            row = self._read(table, key, place)
            self._remembered_bytes += row.size + ENTRY_BYTES
            if self._remembered_bytes > REMEMBERED_BYTES:
                self._remembered.clear()
                self._remembered_bytes = 0
            self._remembered[table.label, key, place] = row
        return row

    def _read(self, table: TableVersions, key: bytes, place: Place) -> ExpectedRow:
        try:
            located = self._at(place)
            if located is None:
                return ExpectedRow(None, place, None, "its last change is not in the journal any more")
            header, statement = located
            if statement[0] == TRUNCATE:
                return ExpectedRow(None, place, header)
            relation = statement[1]
            last_effect = effect(statement, table.images(relation), key)
            if last_effect.row is None:
                return ExpectedRow(None, place, header)
            row = self._completed(table, last_effect, place, relation)
        except (ValueError, struct.error) as error:
            where = f"table {table.label}, sequence {place[0]}, ordinal {place[1]}"
            raise Corrupt("bad_row", f"a statement cannot be read: {error}", place=where) from error
        if row is None:
            return ExpectedRow(None, place, header, "a column's value is older than the journal")
        texts = cast(Row, table.carry(row, relation))
        return ExpectedRow(texts if table.definition.key else [*unpack_texts(key), *texts], place, header)

    def _completed(self, table: TableVersions, last_effect: Effect, place: Place, relation: int) -> list[Text] | None:
        """The row without unchanged columns; None if the journal does not tell them."""
        row, key = last_effect.row, last_effect.source_key
        assert row is not None
        looked_at = 0
        if UNCHANGED in row:
            self.reach(place[0])  # only then: the index may be far behind, and most rows are whole
        while UNCHANGED in row and looked_at < OLDER_LIMIT:
            older = self._history.places(self._strand, table.label, key, place, OLDER_AT_ONCE)
            if not older:
                return None
            for place in older:
                looked_at += 1
                located = self._at(place)
                if located is None or located.statement[0] == TRUNCATE:
                    return None  # pruned; or nothing of before the truncate can be in the row
                statement = located.statement
                before = effect(statement, table.images(statement[1]), key)
                if before.row is None:
                    return None  # another row lived under this key
                row = fill(row, table.carry(before.row, statement[1], relation))
                if UNCHANGED not in row:
                    return row
                if before.source_key != key:
                    key = before.source_key
                    break  # the row came from another key: its past goes on there
        return None if UNCHANGED in row else row
