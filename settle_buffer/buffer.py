"""The settle buffer's pure core: entries in, events out.

Guarantee: what is released of a strand is its sequence without hole, repetition or exchange; a strand that cannot be
proven so stops and says why. An illegal call raises Misuse and changes nothing. Nothing here waits, reads a clock,
touches a disk or draws a number: ``now`` (microseconds, by any clock that does not go back) is an argument.

Use: ``start`` each strand at the consumer's durable position; persist a batch, then ``offer`` it; call ``handle_timer``
when ``next_timer()`` has come; answer each ``Load`` with ``loaded``; tell ``acknowledge`` what the consumer holds.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from settle_buffer.config import SettleConfig
from settle_buffer.entry import MAX_SEQUENCE, PROOF_LIMIT_BYTES, Entry, digest_of, link_of, sequence_of, strand_of
from settle_buffer.errors import Misuse
from settle_buffer.events import Certificate, Event, GapExpired, GapRequest, Pressure
from settle_buffer.gaps import Gap
from settle_buffer.memory import Room
from settle_buffer.status import GapStatus, Status, StrandStatus
from settle_buffer.strand import Strand

RELIEF = 0.9  # pressure ends when every bound is used less than this


class SettleBuffer:
    """Orders entries; see the module's text for how it is driven."""

    def __init__(self, config: SettleConfig) -> None:
        self.config = config
        self.room = Room(config)
        self.strands: dict[str, Strand] = {}
        self.pressure = ""
        self._now = 0
        self._timers: list[tuple[int, int, Strand, Gap]] = []
        self._numbers = itertools.count()

    def start(self, strand: str, sequence: int, digest: bytes, at: int = 0) -> None:
        """The consumer durably holds this strand up to ``sequence``; an empty digest leaves the first link unproven."""
        if strand in self.strands:
            raise Misuse("started_twice", "the strand was started already", place=f"strand {strand}")
        if len(self.strands) >= self.config.strands_limit:
            raise Misuse("too_many_strands", f"at most {self.config.strands_limit} are taken", place=f"strand {strand}")
        if not 0 <= sequence <= MAX_SEQUENCE:
            raise Misuse("bad_sequence", f"{sequence} is no sequence", place=f"strand {strand}")
        self.strands[strand] = Strand(strand, self.config, self.room, sequence, digest, at)

    def restore_waiver(self, strand: str, first: int, last: int) -> None:
        """A waiver that was made durable in an earlier life; before the first offer."""
        self.strand(strand).waived.add(first, last)

    def restore_late(self, entry: Entry) -> list[Event]:
        """A late entry of an earlier life that nobody has settled: said again, under the policy of now."""
        events: list[Event] = []
        self.strand(entry.strand).call_late(entry, events)
        return events

    def offer(self, entries: Sequence[Entry], now: int) -> list[Event]:
        """Take durable entries, of any strands, in any order; what follows from them."""
        if not entries:
            return []
        groups = self._grouped(entries)
        now = self._clock(now)
        events: list[Event] = []
        for strand, group in groups:
            strand.take(group, list(map(sequence_of, group)), now, events)
            self._arm(strand)
        return self._finish(now, events)

    def loaded(self, strand: str, first: int, last: int, entries: list[Entry], now: int) -> list[Event]:
        """The answer to ``Load``: every copy that the spool has of ``first`` to ``last``, the end maybe nearer than
        asked."""
        events: list[Event] = []
        found = self.strand(strand)
        found.loaded(first, last, entries, self._clock(now), events)
        self._arm(found)
        return self._finish(self._now, events)

    def late_among(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that ``offer`` would call late: to be set aside durably in the write that makes them durable."""
        return [
            entry
            for entry in entries
            if (strand := self.strands.get(entry.strand)) is not None and strand.is_waived(entry.sequence)
        ]

    def next_timer(self) -> int | None:
        """When ``handle_timer`` is due, None if nothing waits for time."""
        while self._timers and self._timers[0][3].closed:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def handle_timer(self, now: int) -> list[Event]:
        """What follows from the time alone. Early calls do nothing."""
        return self._finish(self._clock(now), [])

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
        return self._finish(self._clock(now), events)

    def discard(self, strand: str, first: int, last: int, now: int) -> list[Event]:
        """Forget what waits of ``first`` to ``last`` and ask for it anew; the cure of a conflict, before ``resume``."""
        events: list[Event] = []
        found = self.strand(strand)
        found.discard(first, last, self._clock(now), events)
        self._arm(found)
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
        return self._finish(self._clock(now), events)

    def helps(self, entries: Sequence[Entry]) -> bool:
        """Whether any of these closes a hole or is next: such a batch is taken under pressure too."""
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

    def status(self, now: int) -> Status:
        """What is held, what is waited for, and why."""
        gaps = [
            GapStatus(
                name, gap.first, gap.last, gap.missing.count(), max(0, now - gap.opened_at), gap.requests, gap.expired
            )
            for name, strand in self.strands.items()
            for gap in strand.gaps
        ]
        return Status(
            held_entries=self.room.held_entries,
            held_bytes=self.room.held_bytes,
            resident_entries=self.room.resident_entries,
            resident_bytes=self.room.resident_bytes,
            oldest_age_us=max((gap.age_us for gap in gaps), default=0),
            pressure=self.pressure,
            strands=[
                StrandStatus(s.name, s.released, s.at, s.top, s.duplicates, s.late, s.conflicts, s.stopped)
                for s in self.strands.values()
            ],
            gaps=gaps,
        )

    def check(self, entries: Sequence[Entry]) -> None:
        """Raise Misuse where ``offer`` would: ask before the entries are made durable."""
        if entries:
            self._grouped(entries)

    def _grouped(self, entries: Sequence[Entry]) -> list[tuple[Strand, list[Entry]]]:
        """The entries by strand, each strand's in the order they came; checked as a whole first."""
        sequences = list(map(sequence_of, entries))
        if min(sequences) < 1 or max(sequences) > MAX_SEQUENCE:
            raise Misuse("bad_sequence", f"a sequence is from 1 to {MAX_SEQUENCE}")
        if max(map(len, map(digest_of, entries))) > PROOF_LIMIT_BYTES or max(map(len, map(link_of, entries))) > (
            PROOF_LIMIT_BYTES
        ):
            raise Misuse("bad_proof", f"digest and link have at most {PROOF_LIMIT_BYTES} bytes")
        names = list(map(strand_of, entries))
        if names.count(names[0]) == len(names):
            return [(self.strand(names[0]), list(entries))]
        groups: dict[str, list[Entry]] = {}
        for name, entry in zip(names, entries, strict=True):
            groups.setdefault(name, []).append(entry)
        return [(self.strand(name), group) for name, group in groups.items()]

    def _clock(self, now: int) -> int:
        """A clock that goes back stands still here."""
        self._now = max(self._now, now)
        return self._now

    def _arm(self, strand: Strand) -> None:
        """Timers for the gaps that were opened just now."""
        for gap in strand.opened:
            self._push(gap.opened_at + self._request_after_us(), strand, gap)
        strand.opened.clear()

    def _request_after_us(self) -> int:
        config = self.config
        if config.request_after_us is not None:
            return config.request_after_us
        return config.window_us if isinstance(config.window_us, int) else config.window_us.most_us

    def _push(self, due: int, strand: Strand, gap: Gap) -> None:
        heapq.heappush(self._timers, (due, next(self._numbers), strand, gap))

    def _finish(self, now: int, events: list[Event]) -> list[Event]:
        """Timers that are due and the bounds, after every change."""
        while (due := self.next_timer()) is not None and due <= now:
            _, _, strand, gap = heapq.heappop(self._timers)
            self._fire(strand, gap, now, events)
        self._weigh(now, events)
        return events

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
        if not self.room.held_entries and not self.pressure:
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
        oldest = min(
            (at for strand in self.strands.values() if (at := strand.gaps.oldest_at()) is not None), default=now
        )
        return [
            (room.held_entries / config.entries_limit, "entries"),
            (room.held_bytes / config.bytes_limit, "bytes"),
            ((now - oldest) / config.age_limit_us, "age"),
            (gaps / config.gaps_limit, "gaps"),
        ]
