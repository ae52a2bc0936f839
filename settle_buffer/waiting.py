"""Entries of one strand that wait: in memory while there is room, else only on disk.

Guarantee: a sequence waits in one place. What is only on disk costs a range here, not an entry; one stretch of it at a
time is asked for, and an answer counts only if nothing of it was discarded meanwhile.
"""

from __future__ import annotations

from settle_buffer.entry import Entry
from settle_buffer.memory import Room
from settle_buffer.ranges import Range, RangeSet


class HeldEntries:
    """Held entries by sequence, and the ranges that are spilled."""

    def __init__(self, room: Room, load_entries: int) -> None:
        self._room = room
        self._load_entries = load_entries
        self._held: dict[int, Entry] = {}
        self._spilled = RangeSet()
        self._loading: Range | None = None

    def add(self, run: list[Entry], first: int) -> None:
        """A run of consecutive sequences, in memory while there is room."""
        if self._room.admit(run):
            self._held.update(zip(range(first, first + len(run)), run, strict=True))
        else:
            self._spilled.add(first, first + len(run) - 1)

    def keep(self, run: list[Entry]) -> None:
        """Entries that stay in memory whatever the limits say."""
        self._room.keep(run)
        self._held.update((entry.sequence, entry) for entry in run)

    def held(self, sequence: int) -> Entry | None:
        """The entry, if it is in memory."""
        return self._held.get(sequence)

    def end(self, first: int, last: int) -> int:
        """How far from ``first`` on, up to ``last``, entries wait in the same place as it does."""
        spilled = self._spilled.range_at(first)
        if spilled is not None:
            return min(last, spilled[1])
        following = self._spilled.first_from(first)
        return last if following is None else min(last, following - 1)

    def take(self, first: int, last: int) -> list[Entry]:
        """Entries in memory, out of here."""
        run = [self._held.pop(sequence) for sequence in range(first, last + 1)]
        self._room.leave(run)
        return run

    def ask(self, first: int, last: int) -> Range | None:
        """What to load now of ``first`` to ``last``; None while something else is being loaded."""
        if self._loading is not None:  # one stretch at a time: what is read back must fit beside what is held
            return None
        self._loading = (first, min(last, first + self._load_entries - 1))
        return self._loading

    def is_asked(self, first: int, last: int) -> bool:
        """Whether this is an answer to what was asked, or to the beginning of it."""
        return self._loading is not None and self._loading[0] == first and first <= last <= self._loading[1]

    def answer(self, first: int, last: int) -> bool:
        """The answer is here; whether all of it still waits."""
        self._loading = None
        return not self._spilled.missing(first, last)

    def unspill(self, first: int, last: int) -> None:
        """These wait on disk no longer."""
        self._room.unspill(sum(b - a + 1 for a, b in self._spilled.take(first, last)))

    def discard(self, first: int, last: int) -> None:
        """Forget these, wherever they wait."""
        # Over what is held, not over the range: a range may name more sequences than memory has entries.
        entries = [self._held.pop(sequence) for sequence in list(self._held) if first <= sequence <= last]
        self._room.leave(entries)
        self.unspill(first, last)
