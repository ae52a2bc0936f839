"""Where given keys were touched, gathered from the journal itself: what is to be written is not judged by an index.

Guarantee: every place is given that the journal holds, for the keys that were asked for; every block was proven against
its hash as it was read. Takes one reading of the journal, and again one if another key is asked for. Memory: the places
of these keys. Not for more than one thread at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from replicator.format.statement import statement_runs
from replicator.storage.journal.store import Journal
from replicator.verify.repair.images import Place
from replicator.verify.repair.touched_keys import TouchedKeys

READ_BYTES = 1 << 20

NamedKey = tuple[str, bytes]  # a table's label, and the canonical key


class NotGathered(Exception):
    """A key was asked for that was not named before: ``want`` it, and ask again."""

    def __init__(self, key: NamedKey) -> None:
        super().__init__("a key of which nothing was gathered")
        self.key = key


class GatheredPlaces:
    """The places of some keys of one strand; an ``expected_row.RowHistory``."""

    def __init__(self, journal: Journal, strand: str) -> None:
        self._journal = journal
        self._strand = strand
        self._wanted: frozenset[NamedKey] = frozenset()
        self._begin()

    def want(self, keys: Iterable[NamedKey]) -> None:
        """These keys are asked for, too; unless they were already, everything is read again."""
        wanted = self._wanted | frozenset(keys)
        if wanted != self._wanted:
            self._wanted = wanted
            self._begin()

    def forget(self) -> None:
        """None is asked for any more."""
        self._wanted = frozenset()
        self._begin()

    def _begin(self) -> None:
        self._reached = self._journal.base(self._strand).sequence
        self._places = _KeyPlaces(self._journal, self._strand, self._wanted)
        definitions = self._journal.definitions(self._strand).values()
        self._keyed = {definition.label for definition in definitions if definition.key}

    def indexed(self, strand: str) -> int:
        """How far was read."""
        return max(self._reached, self._journal.base(strand).sequence)

    def step(self, strand: str, until: int) -> int:
        """Read the next blocks, not beyond the sequence ``until``."""
        after = self.indexed(strand)
        parts = functools.partial(self._journal.parts, strand)
        blocks = [b for b in self._journal.blocks(strand, after, READ_BYTES) if b.header.sequence <= until]
        for sequence, ordinal, statements in statement_runs(blocks, parts):
            self._places.add(sequence, statements, ordinal)
        self._reached = blocks[-1].header.sequence if blocks else after
        return self._reached

    def places(self, strand: str, table: str, key: bytes, before: Place | None, limit: int) -> list[Place]:
        """Where the key was touched, and its table truncated, newest first; of a table without a key its truncates.
        Raises NotGathered."""
        if table in self._keyed and (table, key) not in self._wanted:
            raise NotGathered((table, key))
        base = self._journal.base(strand).sequence
        found = [*self._places.touches.get((table, key), ()), *self._places.truncates.get(table, ())]
        known = sorted((place for place in found if place[0] > base), reverse=True)
        return [place for place in known if before is None or place < before][:limit]


class _KeyPlaces(TouchedKeys):
    """All the places of the keys that are wanted, and of all truncates."""

    def __init__(self, journal: Journal, strand: str, wanted: frozenset[NamedKey]) -> None:
        self.touches: dict[NamedKey, list[Place]] = {}
        self.truncates: dict[str, list[Place]] = {}
        self._wanted = wanted
        super().__init__(journal.definitions(strand))

    def _note(self, label: str, key: bytes, place: Place) -> None:
        if (label, key) in self._wanted:
            self.touches.setdefault((label, key), []).append(place)

    def _note_truncate(self, label: str, place: Place) -> None:
        self.truncates.setdefault(label, []).append(place)
