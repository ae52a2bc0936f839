"""Time order, for feeds without a gapless sequence: the classic settling buffer.

Guarantee: entries leave earliest first, each once, none before the feed's clock says that it is older than the window;
what comes behind the front is late, never dropped. Order: event time, then strand, sequence, digest.

What does not fit in memory is only on disk: everything from the *horizon* on. The horizon goes down when memory is full
and up as entries are read back. Non-goal: gaps; without a gapless sequence nothing can prove that something is missing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from settle_buffer.clock import FeedClock
from settle_buffer.config import SettleConfig
from settle_buffer.entry import Entry
from settle_buffer.errors import Misuse
from settle_buffer.events import Event, Load, Release
from settle_buffer.memory import Room
from settle_buffer.strand import Strand
from settle_buffer.window import Window

Place = tuple[int, str, int, bytes]  # time, strand, sequence (or 0), digest


def place_of(entry: Entry) -> Place:
    """Where an entry belongs; two contents for one place are a conflict, unless only the digest tells entries apart."""
    return entry.at, entry.strand, entry.sequence, b"" if entry.sequence else entry.digest


class TimeOrder:
    """Entries by time; ``front`` is the place of the last one that left."""

    def __init__(self, config: SettleConfig, room: Room, clock: FeedClock, window: Window) -> None:
        self.front: Place = (-(2**63), "", 0, b"")
        self.strands: dict[str, Strand] = {}
        self.horizon: int | None = None  # from this time on entries are only on disk
        self._far = 0  # the largest time on disk
        self._loading = False
        self._heap: list[Place] = []
        self._waiting: dict[Place, Entry] = {}
        self._out: OrderedDict[Place, bytes] = OrderedDict()
        self._config = config
        self._room = room
        self._clock = clock
        self._window = window

    def start(self, strand: Strand) -> None:
        self.strands[strand.name] = strand
        if strand.at:
            digest = b"" if strand.released else strand.digest
            self.front = max(self.front, (strand.at, strand.name, strand.released, digest))

    def push(self, entries: list[Entry], events: list[Event], *, again: bool = False) -> None:
        """Take entries, in any order. ``again``: they were read back, so what is behind the front was released."""
        for entry in entries:
            place = place_of(entry)
            strand = self.strands[entry.strand]
            mine = self._waiting.get(place)
            digest = mine.digest if mine is not None else self._out.get(place)
            if digest is not None:
                if digest == entry.digest:
                    strand.count_duplicates(1, 0, events)
                else:
                    strand.conflict("digest", digest, mine, entry, events)
            elif place <= self.front:
                if again:
                    strand.count_duplicates(1, 1, events)
                else:
                    strand.call_late(entry, events, self.front[0])
            elif self.horizon is not None and entry.at >= self.horizon:
                self._far = max(self._far, entry.at)
                self._room.spill([entry])
            else:
                self._waiting[place] = entry
                heapq.heappush(self._heap, place)
                self._room.keep([entry])
        if self._room.overfull and not self._loading:  # an answer is to find the horizon where it was asked
            self._shrink()

    def loaded(self, first: int, last: int, entries: list[Entry], events: list[Event]) -> None:
        """Everything that the spool has from ``first`` to ``last``."""
        if not self._loading or first != self.horizon:
            raise Misuse("not_asked", f"times {first} to {last} were not to be loaded")
        self._loading = False
        self.horizon = last + 1 if last < self._far else None
        # With nothing left on disk the count is right again, whatever copies and duplicates had added to it.
        self._room.unspill(len(entries) if self.horizon is not None else self._room.spilled_entries)
        self.push(entries, events)

    def advance(self, now: int, events: list[Event]) -> None:
        """Release what is older than the window."""
        feed_now = self._clock.feed_now(now)
        # One stopped strand stops all: what it cannot bring now may be earlier than what the others have.
        if feed_now is None or any(strand.stopped for strand in self.strands.values()):
            return
        due = feed_now - self._window.us
        run: list[Entry] = []
        while self._heap and self._heap[0][0] <= due and not self._loading:
            run.append(self._waiting.pop(place := heapq.heappop(self._heap)))
            self._out[place] = run[-1].digest
            self.front = place
        if run:
            self._room.leave(run)
            while len(self._out) > self._config.remembered:
                self._out.popitem(last=False)
            events.append(Release(None, run))
        if self.horizon is not None and not self._loading and not self._heap and self.horizon <= due:
            self._loading = True
            events.append(Load("", self.horizon, self._far))

    def head(self) -> int | None:
        """The time of the earliest entry that waits, or one not after it."""
        return self._heap[0][0] if self._heap else self.horizon

    def next_timer(self, now: int) -> int | None:
        """When, after ``now``, the earliest entry is old enough."""
        if self._loading:
            return None
        first = self.head()
        due = None if first is None else self._clock.local(first + self._window.us)
        return due if due is not None and due > now else None

    def _shrink(self) -> None:
        """The later half is on disk anyway: forget it here. Entries of one microsecond stay together."""
        self._heap.sort()
        edge = self._heap[len(self._heap) // 2][0]
        if edge == self._heap[0][0]:  # all of the earlier half is of one time: nothing could go
            return
        spilled = [place for place in self._heap if place[0] >= edge]
        self._heap = [place for place in self._heap if place[0] < edge]
        entries = [self._waiting.pop(place) for place in spilled]
        self._room.leave(entries)
        self._room.spill(entries)
        self._far = max(self._far, spilled[-1][0])
        self.horizon = edge
