"""All strands in one order: by time, strand, sequence.

Guarantee: an entry leaves only when no strand that counts can still send an earlier one. Within a strand the sequence
rules: where its clock goes back, the entry keeps the place of the one before. Time alone never passes over a strand
with an open gap or a stop.

The idea (watermarks): every strand has a *bound*, the smallest place that its next entry can have: right behind its
last entry, or past the time that its heartbeat resolved, or, for a strand that sends no heartbeats, past the feed's
clock minus the window. What lies below all bounds is out. An idle strand, told or silent for too long, does not count;
what it brings when it comes back is taken from there on, and what is behind the front by then is late.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from settle_buffer.clock import FeedClock
from settle_buffer.config import SettleConfig
from settle_buffer.entry import Entry, at_of, sequence_of
from settle_buffer.events import Event, Idle, Release
from settle_buffer.memory import Room
from settle_buffer.strand import Strand
from settle_buffer.window import Window

PROMISES = 64  # heartbeats kept while their entries are missing

Place = tuple[int, str, int]  # time, strand, sequence


class Lane:
    """What one strand has brought and what it still may bring."""

    def __init__(self, strand: Strand) -> None:
        self.strand = strand
        self.places: list[Place] = []
        self.entries: list[Entry] = []
        self.time = strand.at
        self.delivered = strand.released
        self.resolved: int | None = None  # from heartbeats: nothing at or before this time is still to come
        self.promised: list[tuple[int, int]] = []  # heartbeats that wait for their sequence: (sequence, time)
        self.heard_at: int | None = None  # silence counts from the first time that the clock is told
        self.idle = False

    def hear(self, now: int, events: list[Event]) -> None:
        """A sign of life."""
        self.heard_at = now
        if self.idle:
            self.idle = False
            events.append(Idle(self.strand.name, False))

    def fall_idle(self, events: list[Event]) -> None:
        if not self.idle:
            self.idle = True
            events.append(Idle(self.strand.name, True))

    @property
    def incomplete(self) -> bool:
        """Entries are known to exist that have not come through: time must not pass over them."""
        return self.strand.top > self.strand.released or bool(self.strand.stopped)


class MergedOrder:
    """The merge of all strands; ``front`` is the place of the last entry that left."""

    def __init__(self, config: SettleConfig, room: Room, clock: FeedClock, window: Window) -> None:
        self.lanes: dict[str, Lane] = {}
        self.front: Place = (-(2**63), "", 0)
        self._config = config
        self._room = room
        self._clock = clock
        self._window = window

    def start(self, strand: Strand) -> None:
        """A strand counts from here on; the consumer's places are where the front begins."""
        self.lanes[strand.name] = Lane(strand)
        if strand.released:
            self.front = max(self.front, (strand.at, strand.name, strand.released))

    def push(self, name: str, run: list[Entry], now: int, events: list[Event]) -> None:
        """A run that is in order within its strand."""
        lane = self.lanes[name]
        lane.hear(now, events)
        # Within a strand the sequence rules: an entry whose time goes back takes the time of the one before.
        times = list(accumulate(map(at_of, run), max, initial=lane.time))[1:]
        lane.time = times[-1]
        places = [(time, name, sequence) for time, sequence in zip(times, map(sequence_of, run), strict=True)]
        late = bisect_left(places, self.front)  # passed over, idle or beyond the window: the front has moved on
        for entry in run[:late]:
            lane.strand.call_late(entry, events, self.front[0])
        lane.places += places[late:]
        lane.entries += run[late:]
        self._room.keep(run[late:])
        self._throttle(lane)

    def heartbeat(self, name: str, sequence: int | None, at: int, idle: bool, now: int, events: list[Event]) -> None:
        """The strand has nothing more at or before ``at`` than what is up to ``sequence``."""
        lane = self.lanes[name]
        lane.hear(now, events)
        # Without a sequence the feed keeps its order: what it sent before this is all that there is up to ``at``.
        promise = (lane.strand.top if sequence is None else sequence, at)
        if len(lane.promised) >= PROMISES or (lane.promised and lane.promised[-1][0] == promise[0]):
            lane.promised.pop()  # the later one says as much
        lane.promised.append(promise)
        if idle:
            lane.fall_idle(events)

    def advance(self, now: int, events: list[Event]) -> None:
        """Release everything below all bounds."""
        for lane in self.lanes.values():
            self._resolve(lane)
            if lane.heard_at is None:
                lane.heard_at = now
            # One whose entries wait is not silent, and one with a gap is known to have more: time excuses neither.
            if not lane.incomplete and not lane.places and now >= lane.heard_at + self._config.idle_after_us:
                lane.fall_idle(events)
        bound = min(
            (self._bound(lane, now) for lane in self.lanes.values() if not self._passed_over(lane)), default=None
        )
        if bound is None:
            return
        places: list[tuple[Place, Entry]] = []
        for lane in self.lanes.values():
            count = bisect_left(lane.places, bound)
            if count:
                places += zip(lane.places[:count], lane.entries[:count], strict=True)
                lane.delivered = lane.entries[count - 1].sequence
                del lane.places[:count], lane.entries[:count]
        if places:
            places.sort(key=lambda pair: pair[0])  # a merge of sorted runs, which is what Python's sort does with them
            run = [entry for _, entry in places]
            self.front = places[-1][0]
            self._room.leave(run)
            events.append(Release(None, run))

    def unthrottle(self, events: list[Event]) -> bool:
        """Let strands go on that waited because their lane was full; whether any did."""
        resumed = False
        for lane in self.lanes.values():
            if lane.strand.paused and len(lane.places) <= self._share() // 2:  # half: not to stop again at the next run
                lane.strand.unpause(events)
                resumed = True
        return resumed

    def head(self) -> int | None:
        """The time of the earliest entry that waits."""
        return min((lane.places[0][0] for lane in self.lanes.values() if lane.places), default=None)

    def next_timer(self, now: int) -> int | None:
        """When, after ``now``, time alone may move a bound; None while nothing waits for it."""
        head = self.head()
        if head is None:
            return None
        window_over = self._clock.local(head + self._window.us + 1)
        dues = [
            lane.heard_at + self._config.idle_after_us
            for lane in self.lanes.values()
            if lane.heard_at is not None and not lane.idle and not lane.incomplete and not lane.places
        ]
        if window_over is not None and not self._config.heartbeats_only:
            dues.append(window_over)
        return min((due for due in dues if due > now), default=None)

    def _passed_over(self, lane: Lane) -> bool:
        return lane.idle and not lane.places

    def _bound(self, lane: Lane, now: int) -> Place:
        """The smallest place that is not yet certain because of this strand."""
        if lane.strand.stopped and lane.places:  # a stop holds back also what had come through before it
            return lane.places[0]
        bound = (lane.time, lane.strand.name, lane.strand.released + 1)
        if lane.resolved is not None:
            return max(bound, (lane.resolved + 1, "", 0))
        # The window is a guess, for strands that never say how far they are: a heartbeat that waits is better.
        feed_now = self._clock.feed_now(now)
        if feed_now is None or lane.incomplete or lane.promised or self._config.heartbeats_only:
            return bound
        return max(bound, (feed_now - self._window.us, "", 0))

    def _resolve(self, lane: Lane) -> None:
        """Heartbeats count when the entries that they speak of are here."""
        while lane.promised and lane.promised[0][0] <= lane.strand.released:
            at = lane.promised.pop(0)[1]
            lane.resolved = at if lane.resolved is None else max(lane.resolved, at)

    def _share(self) -> int:
        """How many entries of one strand may wait in memory."""
        return max(1, self._config.resident_entries // max(1, len(self.lanes)))

    def _throttle(self, lane: Lane) -> None:
        """A strand that runs ahead goes to disk: it is held before the merge."""
        if len(lane.places) > self._share():
            lane.strand.paused = True
