"""The settle buffer's pure core: entries in, events out.

Guarantee: what is released of a strand is its sequence without hole, repetition or exchange; a strand that cannot be
proven so stops and says why. An illegal call raises Misuse and changes nothing. Nothing here waits, reads a clock,
touches a disk or draws a number: ``now`` (microseconds, by any clock that does not go back) is an argument.

Use: ``start`` each strand at the consumer's durable position; persist a batch, then ``offer`` it; call ``handle_timer``
when ``next_timer()`` has come; answer each ``Load`` with ``loaded``.

The order of the parts: a ``Strand`` each puts entries in sequence and knows the gaps; in order ``merged`` what they
release goes through ``MergedOrder``; in order ``time`` there are no sequences and ``TimeOrder`` does it all.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from settle_buffer.clock import FeedClock
from settle_buffer.config import SettleConfig
from settle_buffer.entry import (
    MAX_SEQUENCE,
    PROOF_LIMIT_BYTES,
    Entry,
    at_of,
    digest_of,
    link_of,
    sequence_of,
    strand_of,
)
from settle_buffer.errors import Misuse
from settle_buffer.events import Certificate, Event, GapExpired, GapFilled, GapRequest, Pressure, Release
from settle_buffer.gaps import Gap
from settle_buffer.memory import Room
from settle_buffer.merged import MergedOrder
from settle_buffer.status import Status, gap_statuses, strand_status
from settle_buffer.strand import Strand
from settle_buffer.timed import TimeOrder
from settle_buffer.window import Window

RELIEF = 0.9  # pressure ends when every bound is used less than this


class SettleBuffer:
    """Orders entries; see the module's text for how it is driven."""

    def __init__(self, config: SettleConfig) -> None:
        self.config = config
        self.room = Room(config)
        self.strands: dict[str, Strand] = {}
        self.window = Window(config.window_us)
        self.clock = FeedClock(config.idle_after_us + self.window.us)
        self.merged = MergedOrder(config, self.room, self.clock, self.window) if config.order == "merged" else None
        self.timed = TimeOrder(config, self.room, self.clock, self.window) if config.order == "time" else None
        self.pressure = ""
        self._now = -(2**63)
        self._timers: list[tuple[int, int, Strand, Gap]] = []
        self._numbers = itertools.count()

    def start(self, strand: str, sequence: int, digest: bytes, at: int = 0) -> None:
        """The consumer durably holds this strand up to ``sequence``, whose event time is ``at``. An empty digest leaves
        the first link unproven."""
        place = f"strand {strand}"
        if strand in self.strands:
            raise Misuse("started_twice", "the strand was started already", place=place)
        if len(self.strands) >= self.config.strands_limit:
            raise Misuse("too_many_strands", f"at most {self.config.strands_limit} are taken", place=place)
        if not 0 <= sequence <= MAX_SEQUENCE:
            raise Misuse("bad_sequence", f"{sequence} is no sequence", place=place)
        started = self.strands[strand] = Strand(strand, self.config, self.room, sequence, digest, at)
        if self.merged is not None:
            self.merged.start(started)
        if self.timed is not None:
            self.timed.start(started)

    def restore_waiver(self, strand: str, first: int, last: int) -> None:
        """A waiver that was made durable in an earlier life; before the first offer."""
        self.strand(strand).waived.add(first, last)

    def restore_late(self, entry: Entry) -> list[Event]:
        """A late entry of an earlier life that nobody has settled: said again, under the policy of now."""
        events: list[Event] = []
        self.strand(entry.strand).call_late(entry, events, self._front())
        return events

    def check(self, entries: Sequence[Entry]) -> None:
        """Raise Misuse where ``offer`` would: ask before the entries are made durable."""
        if entries:
            self._grouped(entries)

    def is_next(self, entries: Sequence[Entry]) -> bool:
        """Whether ``offer`` would release these and nothing else: all of one strand, in sequence order, and next."""
        groups = self._grouped(entries)
        strand, group = groups[0]
        return (
            self.config.order == "sequence"
            and len(groups) == 1
            and strand.is_next(group, list(map(sequence_of, group)))
        )

    def offer(self, entries: Sequence[Entry], now: int, *, again: bool = False) -> list[Event]:
        """Take durable entries, of any strands, in any order; what follows from them. ``again``: they come from the
        spool after a restart."""
        if not entries:
            return []
        groups = self._grouped(entries)  # all that may be refused is refused here, before anything has changed
        now = self._advance_to(now)
        events: list[Event] = []
        if self.config.order != "sequence" and not again:  # what was read back has been on its way for a restart longer
            self._observe(entries, now)
        for strand, group in groups:
            if self.timed is not None:
                self.timed.push(group, events, again=again)
            else:
                strand.take(group, list(map(sequence_of, group)), now, events)
                self._arm(strand)
        return self._finish(now, events)

    def heartbeat(self, strand: str, at: int, now: int, sequence: int | None = None, idle: bool = False) -> list[Event]:
        """The feed says: my clock is ``at``, and of this strand nothing at or before ``at`` is after ``sequence``
        (None: after what I have sent before this, on a feed that keeps its order). ``idle``: do not wait for it."""
        state = self.strand(strand)
        if sequence is not None and not 0 <= sequence <= MAX_SEQUENCE:
            raise Misuse("bad_sequence", f"{sequence} is no sequence", place=f"strand {strand}")
        now = self._advance_to(now)
        events: list[Event] = []
        self.clock.heartbeat(at, now)
        if sequence is not None and self.timed is None:
            state.expect(sequence, now, events)
            self._arm(state)
        if self.merged is not None:
            self.merged.heartbeat(strand, sequence, at, idle, now, events)
        return self._finish(now, events)

    def loaded(self, strand: str, first: int, last: int, entries: list[Entry], now: int) -> list[Event]:
        """The answer to ``Load``: every copy that the spool has of ``first`` to ``last``, the end maybe nearer than
        asked."""
        events: list[Event] = []
        if self.timed is not None:
            self.timed.loaded(first, last, entries, events)
        else:
            state = self.strand(strand)
            state.loaded(first, last, entries, self._advance_to(now), events)
            self._arm(state)
        return self._finish(self._advance_to(now), events)

    def next_timer(self) -> int | None:
        """When ``handle_timer`` is due, None if nothing waits for time."""
        dues = [self._next_gap_timer()]
        if self.merged is not None:
            dues.append(self.merged.next_timer(self._now))
        if self.timed is not None:
            dues.append(self.timed.next_timer(self._now))
        return min((due for due in dues if due is not None), default=None)

    def handle_timer(self, now: int) -> list[Event]:
        """What follows from the time alone. Early calls do nothing."""
        return self._finish(self._advance_to(now), [])

    def waivers(self, strand: str, first: int, last: int, who: str, why: str, now: int) -> list[Certificate]:
        """The certificates that ``waive`` would give: to be made durable before it is called."""
        certificates = self.strand(strand).waivers(first, last, who, why, now)
        if not certificates:
            raise Misuse("nothing_missing", f"no sequence of {first} to {last} is missing", place=f"strand {strand}")
        if not who.strip() or not why.strip():
            raise Misuse("no_reason", "a waiver names who and why", place=f"strand {strand}")
        return certificates

    def waive(self, strand: str, first: int, last: int, who: str, why: str, now: int) -> list[Event]:
        """An operator takes the responsibility for what is missing of ``first`` to ``last``."""
        certificates = self.waivers(strand, first, last, who, why, now)
        events: list[Event] = []
        self.strand(strand).waive(certificates, events)
        return self._finish(self._advance_to(now), events)

    def discard(self, strand: str, first: int, last: int, now: int) -> list[Event]:
        """Forget what waits of ``first`` to ``last`` and ask for it anew; the cure of a conflict, before ``resume``."""
        events: list[Event] = []
        state = self.strand(strand)
        state.discard(first, last, self._advance_to(now), events)
        self._arm(state)
        return self._finish(self._now, events)

    def stop(self, strand: str, reason: str) -> list[Event]:
        """Release nothing more of this strand."""
        events: list[Event] = []
        self.strand(strand).stop(reason, events)
        return events

    def resume(self, strand: str, now: int) -> list[Event]:
        """A person has decided: go on."""
        events: list[Event] = []
        self.strand(strand).resume(events)
        return self._finish(self._advance_to(now), events)

    def helps(self, entries: Sequence[Entry]) -> bool:
        """Whether any of these closes a hole or is next: such a batch is taken under pressure too."""
        if self.timed is not None:
            return False
        for entry in entries:
            strand = self.strands.get(entry.strand)
            if strand is not None and (entry.sequence == strand.released + 1 or strand.misses(entry.sequence)):
                return True
        return False

    def strand(self, name: str) -> Strand:
        """One strand's state, to be read."""
        strand = self.strands.get(name)
        if strand is None:
            raise Misuse("not_started", "the strand was not started", place=f"strand {name}", cure="call start first")
        return strand

    def delivered(self, strand: str) -> int:
        """Up to where the consumer was given this strand: its sequence, in time order the event time."""
        if self.timed is not None:
            return self.timed.front[0]
        return self.strand(strand).released if self.merged is None else self.merged.lanes[strand].delivered

    def status(self, now: int) -> Status:
        """What is held, what is waited for, and why."""
        return Status(
            held_entries=self.room.held_entries,
            held_bytes=self.room.held_bytes,
            resident_entries=self.room.resident_entries,
            resident_bytes=self.room.resident_bytes,
            oldest_age_us=max(0, self._oldest_age_us(now)),
            pressure=self.pressure,
            strands=[
                strand_status(strand, self.delivered(name), self._idle(name)) for name, strand in self.strands.items()
            ],
            gaps=[gap for strand in self.strands.values() for gap in gap_statuses(strand, now)],
            window_us=self.window.us,
            window_reason=self.window.reason,
            clock_offset_us=self.clock.offset_us,
            clock_error_us=self.clock.error_us,
            lateness=self.window.histogram.copy(),
            lateness_us=self.window.lateness_us,
        )

    def _idle(self, name: str) -> bool:
        return self.merged is not None and self.merged.lanes[name].idle

    def _front(self) -> int | None:
        """The event time of what was released last, None in sequence order, where it says nothing."""
        if self.timed is not None:
            return self.timed.front[0]
        return None if self.merged is None else self.merged.front[0]

    def _oldest_age_us(self, now: int) -> int:
        """How long the oldest gap has been open or, across strands and by time, the earliest entry has waited."""
        ages = [now - at for strand in self.strands.values() if (at := strand.gaps.oldest_at()) is not None]
        waiting = self.merged or self.timed
        feed_now, head = self.clock.feed_now(now), waiting.head() if waiting else None
        if feed_now is not None and head is not None:
            ages.append(feed_now - head)
        return max(ages, default=0)

    def _grouped(self, entries: Sequence[Entry]) -> list[tuple[Strand, list[Entry]]]:
        """The entries by strand, each strand's in the order they came; checked as a whole first."""
        sequences = list(map(sequence_of, entries))
        least = 0 if self.timed is not None else 1
        if min(sequences) < least or max(sequences) > MAX_SEQUENCE:
            raise Misuse("bad_sequence", f"a sequence is from {least} to {MAX_SEQUENCE}")
        longest = max(max(map(len, map(digest_of, entries))), max(map(len, map(link_of, entries))))
        if longest > PROOF_LIMIT_BYTES:
            raise Misuse("bad_proof", f"digest and link have at most {PROOF_LIMIT_BYTES} bytes")
        names = list(map(strand_of, entries))
        if names.count(names[0]) == len(names):
            return [(self.strand(names[0]), list(entries))]
        groups: dict[str, list[Entry]] = {}
        for name, entry in zip(names, entries, strict=True):
            groups.setdefault(name, []).append(entry)
        return [(self.strand(name), group) for name, group in groups.items()]

    def _advance_to(self, now: int) -> int:
        """A clock that goes back stands still here."""
        self._now = max(self._now, now)
        return self._now

    def _observe(self, entries: Sequence[Entry], now: int) -> None:
        """What the arrival of these says about the feed's clock, and how late they are by it."""
        self.clock.entry(max(map(at_of, entries)), now)
        feed_now = self.clock.feed_now(now)
        if feed_now is not None:
            for at in map(at_of, entries):
                self.window.observe(max(0, feed_now - at))

    def _observe_holes(self, now: int, events: list[Event]) -> None:
        """In sequence order lateness is how long a hole was open that closed by itself; all else came in time."""
        for event in events:
            if isinstance(event, Release):
                self.window.observe(0, len(event.entries))
            elif isinstance(event, GapFilled) and event.certificate is None:
                self.window.observe(now - event.opened_at)

    def _arm(self, strand: Strand) -> None:
        """Timers for the gaps that were opened just now."""
        after_us = self.config.request_after_us
        for gap in strand.opened:
            self._push(gap.opened_at + (self.window.us if after_us is None else after_us), strand, gap)
        strand.opened.clear()

    def _push(self, due: int, strand: Strand, gap: Gap) -> None:
        heapq.heappush(self._timers, (due, next(self._numbers), strand, gap))  # the number: strands do not compare

    def _next_gap_timer(self) -> int | None:
        # A gap that closed leaves its timer behind: finding it in the heap would cost more than meeting it at the top.
        while self._timers and self._timers[0][3].closed:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _finish(self, now: int, events: list[Event]) -> list[Event]:
        """Timers that are due, the order across strands and the bounds, after every change."""
        while (due := self._next_gap_timer()) is not None and due <= now:  # each is pushed again, beyond ``now``
            _, _, strand, gap = heapq.heappop(self._timers)
            self._fire(strand, gap, now, events)
        if self.merged is not None:
            events = self._merge(self.merged, now, events)
        elif self.timed is not None:
            self.timed.advance(now, events)
        else:
            self._observe_holes(now, events)
        self._weigh(now, events)
        return events

    def _merge(self, merged: MergedOrder, now: int, events: list[Event]) -> list[Event]:
        """What the strands released goes through the merge; that may make room for more."""
        out: list[Event] = []
        while True:
            for event in events:
                if isinstance(event, Release):
                    assert event.strand is not None
                    merged.push(event.strand, event.entries, now, out)
                else:
                    out.append(event)
            merged.advance(now, out)
            events = []
            if not merged.unthrottle(events):
                return out

    def _fire(self, strand: Strand, gap: Gap, now: int, events: list[Event]) -> None:
        """Ask for a gap's entries again; say once that it has expired."""
        config = self.config
        if not gap.expired and now >= gap.opened_at + config.expire_after_us:
            gap.expired = True
            events.append(GapExpired(strand.name, gap.missing.first, gap.missing.last))
        gap.requests += 1
        events.append(GapRequest(strand.name, gap.missing.first, gap.missing.last, gap.requests))
        self._push(now + config.request_every_us, strand, gap)

    def _weigh(self, now: int, events: list[Event]) -> None:
        """Pressure on at a bound, off well below all of them."""
        if not self.room.held_entries and not self.pressure:  # nearly always, and the shares cost a pass over strands
            return
        share, bound = max(self._shares(now))
        if not self.pressure and share >= 1:
            self.pressure = bound
            events.append(Pressure(True, bound))
        elif self.pressure and share < RELIEF:
            events.append(Pressure(False, self.pressure))
            self.pressure = ""

    def _shares(self, now: int) -> list[tuple[float, str]]:
        """How much of each bound is used."""
        config, room = self.config, self.room
        gaps = sum(len(strand.gaps) for strand in self.strands.values())
        return [
            (room.held_entries / config.entries_limit, "entries"),
            (room.held_bytes / config.bytes_limit, "bytes"),
            (self._oldest_age_us(now) / config.age_limit_us, "age"),
            (gaps / config.gaps_limit, "gaps"),
        ]
