"""Seeded worlds around the pure core: feeds that delay, reorder, duplicate and drop, a consumer, a disk, crashes.

One seed makes one world, wholly: ``python -m tests.settle_buffer.simulation --seed 17`` runs it again and
``--seeds 10000`` runs many. Each world ends with every entry delivered, and checks on the way what the library
guarantees.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from settle_buffer import Correction, Entry, Event, GapRequest, Late, Load, Release, SettleBuffer, SettleConfig
from settle_buffer.config import LatePolicy, Order
from tests.settle_buffer.makers import chain

STEP_LIMIT = 20_000
END_US = 100_000_000  # by then everything was created and the last heartbeats are due


@dataclass
class Arrive:
    entry: Entry


@dataclass
class Beat:
    strand: str
    at: int
    sequence: int


@dataclass
class Answer:
    load: Load


@dataclass
class Crash:
    pass


@dataclass
class Wake:
    pass


Happening = Arrive | Beat | Answer | Crash | Wake


class World:
    """One simulated life of a buffer, with crashes."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.order = cast(Order, dice.choice(["sequence", "merged", "time"]))
        self.beats = self.order != "merged" or dice.random() < 0.7
        self.max_delay_us = dice.choice([0, 1_000, 200_000, 3_000_000])
        self.window_us = dice.choice([10_000, 500_000, 10_000_000])
        self.lossy = self.order != "time" and dice.random() < 0.7
        self.skew_us = dice.choice([0, 10**12, -(10**9)])
        self.config = SettleConfig(
            order=self.order,
            window_us=self.window_us,
            request_after_us=dice.choice([None, 0, 50_000]),
            request_every_us=dice.choice([100_000, 2_000_000]),
            idle_after_us=10 * END_US if self.beats else 2_000_000,
            heartbeats_only=self.beats,
            late=cast(LatePolicy, dice.choice(["quarantine", "correct"])),
            resident_entries=dice.choice([2, 10, 1_000]),
            load_entries=dice.choice([1, 3, 100]),
            remembered=dice.choice([0, 5, 1_000]),
        )
        self.feed = {name: self._feed(name) for name in "abcd"[: dice.randint(1, 4)]}
        self.entries = [entry for entries in self.feed.values() for entry in entries]
        self.now = 0
        self.crashes = 0
        self.queue: list[tuple[int, int, Happening]] = []
        self.numbers = itertools.count()
        self.disk: list[Entry] = []
        self.late: list[Entry] = []
        self.consumed: list[Entry] = []
        self.undelivered: list[Event] = []
        self.buffer = self._started()
        self._schedule()

    def run(self) -> None:
        """Until nothing more can happen; then everything must be there."""
        for _ in range(STEP_LIMIT):
            batch = self._next_batch()
            if not batch and not self.undelivered:
                break
            entries = [happening.entry for happening in batch if isinstance(happening, Arrive)]
            if entries:
                self.disk += entries
                self._take(self.buffer.offer(entries, self.now + self.skew_us))
            if batch and not isinstance(batch[-1], Arrive):
                self._let(batch[-1])
            if not batch:
                self._deliver_all()
        else:
            raise AssertionError("the world does not come to an end")
        self._check_end()

    def _feed(self, name: str) -> list[Entry]:
        """A strand's entries; in time order without sequences or with ties broken by them."""
        at, entries = 1_000_000, []
        tie_broken = self.dice.random() < 0.5
        for entry in chain(name, self.dice.randint(1, 25)):
            at += self.dice.choice([0, 1, 1_000, 40_000, 900_000])
            entry = entry._replace(at=at)
            if self.order == "time":
                entry = entry._replace(sequence=entry.sequence if tie_broken else 0, link=b"")
            entries.append(entry)
        return entries

    def _schedule(self) -> None:
        dice = self.dice
        for entry in self.entries:
            copies = 2 if dice.random() < 0.2 else 1
            for _ in range(copies):
                if not (self.lossy and dice.random() < 0.15):
                    self._at(entry.at + self._delay(), Arrive(entry))
        for name, entries in self.feed.items():
            last = entries[-1].sequence
            for at in range(1_500_000, entries[-1].at, 1_000_000) if self.beats else ():
                sequence = max((entry.sequence for entry in entries if entry.at <= at), default=0)
                self._at(at + self._delay(), Beat(name, at, sequence))
            self._at(END_US + self.window_us, Beat(name, END_US, last))
        for _ in range(dice.choice([0, 0, 1, 4])):
            self._at(dice.randint(1_000_000, 40_000_000), Crash())

    def _delay(self) -> int:
        return self.dice.randint(0, self.max_delay_us)

    def _at(self, at: int, happening: Happening) -> None:
        heapq.heappush(self.queue, (at, next(self.numbers), happening))

    def _next_batch(self) -> list[Happening]:
        """What happens next, entries that come together as one batch; the timer if it is due first."""
        due = self.buffer.next_timer()
        if due is not None and (not self.queue or due - self.skew_us < self.queue[0][0]):
            self.now = max(self.now, due - self.skew_us)
            return [Wake()]
        batch: list[Happening] = []
        size = self.dice.choice([1, 1, 5, 40])
        while self.queue and len(batch) < size:
            at, _, happening = heapq.heappop(self.queue)
            self.now = max(self.now, at)
            batch.append(happening)
            if not isinstance(happening, Arrive):
                break
        return batch

    def _let(self, happening: Happening) -> None:
        now = self.now + self.skew_us
        if isinstance(happening, Beat):
            self._take(self.buffer.heartbeat(happening.strand, happening.at, now, happening.sequence))
        elif isinstance(happening, Answer):
            self._answer(happening.load, now)
        elif isinstance(happening, Crash):
            self._crash()
        else:
            self._take(self.buffer.handle_timer(now))

    def _take(self, events: list[Event]) -> None:
        """Late entries are safe before anything else; the rest reaches the consumer unless a crash comes first."""
        for event in events:
            if isinstance(event, Late):
                self.late.append(event.entry)
                self.disk = [entry for entry in self.disk if entry != event.entry]
        self.undelivered += events
        if self.dice.random() < 0.9:
            self._deliver_all()

    def _deliver_all(self) -> None:
        for event in self.undelivered:
            self._deliver(event)
        self.undelivered = []

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Release):
            self._check_time(event)
            self.consumed += event.entries
            if self.dice.random() < 0.3:
                self._trim()
        elif isinstance(event, Load):
            self._at(self.now + self.dice.choice([0, 5_000]), Answer(event))
        elif isinstance(event, GapRequest):
            for entry in self.feed[event.strand][event.first - 1 : event.last]:
                if self.dice.random() < 0.8:
                    self._at(max(self.now, entry.at) + self._delay(), Arrive(entry))
        else:
            assert not isinstance(event, Correction) or event.entry in self.late

    def _answer(self, load: Load, now: int) -> None:
        """Read the disk as the spool does, sometimes less than was asked for."""
        last = load.last if self.dice.random() < 0.7 else (load.first + load.last) // 2
        place = self._place
        found = [e for e in self.disk if load.first <= place(e) <= last and load.strand in ("", e.strand)]
        self._take(self.buffer.loaded(load.strand, load.first, last, sorted(found, key=place), now))

    def _place(self, entry: Entry) -> int:
        return entry.at if self.order == "time" else entry.sequence

    def _positions(self) -> dict[str, Entry]:
        return {entry.strand: entry for entry in self.consumed}

    def _trim(self) -> None:
        last = self._positions()
        self.disk = [entry for entry in self.disk if self._is_above(entry, last.get(entry.strand))]

    def _is_above(self, entry: Entry, position: Entry | None) -> bool:
        """Whether the spool still has to hold an entry; times are not unique, so the last one's neighbours stay."""
        if position is None:
            return True
        slack = 1 if self.order == "time" else 0
        return self._place(entry) > self._place(position) - slack

    def _started(self) -> SettleBuffer:
        buffer = SettleBuffer(self.config)
        last = self._positions()
        for name in self.feed:
            if name in last:
                buffer.start(name, last[name].sequence, last[name].digest, last[name].at)
            else:
                buffer.start(name, 0, b"")
        return buffer

    def _crash(self) -> None:
        """Memory is gone; the disk and the consumer's position are not, and what is on its way still comes."""
        self.crashes += 1
        self.undelivered = []
        self.queue = [item for item in self.queue if not isinstance(item[2], Answer)]
        heapq.heapify(self.queue)
        self.buffer = self._started()
        last = self._positions()
        for entry in list(self.disk):
            if self._is_above(entry, last.get(entry.strand)):
                self._take(self.buffer.offer([entry], self.now + self.skew_us, again=True))

    def _check_time(self, release: Release) -> None:
        """Nothing before its time: by the feed's own clock it is older than the window."""
        if self.order == "time":
            newest = max(entry.at for entry in release.entries)
            assert newest + self.window_us <= self.now, "released before its time"

    def _check_end(self) -> None:
        assert max(Counter(self.consumed).values(), default=0) <= 1, "an entry was delivered twice"
        assert {*self.consumed, *self.late} == {*self.entries}, "an entry is missing"
        if self.order == "time":
            assert self.consumed == sorted(self.consumed, key=lambda e: (e.at, e.strand, e.sequence, e.digest))
            if not self.crashes and self.max_delay_us <= self.window_us:
                assert not self.late
        else:
            for name, entries in self.feed.items():
                mine = [entry for entry in self.consumed if entry.strand == name]
                assert mine == [entry for entry in entries if entry not in self.late], f"strand {name} is out of order"
        if self.order == "merged":
            assert self.consumed == sorted(self.consumed, key=lambda e: (e.at, e.strand, e.sequence))
        if self.order == "sequence" or (self.order == "merged" and self.beats):
            assert not self.late
        status = self.buffer.status(self.now + self.skew_us)
        assert (status.held_entries, status.held_bytes, status.gaps) == (0, 0, [])


def failures(seeds: Iterator[int]) -> list[tuple[int, str]]:
    """The seeds whose world breaks a guarantee, and how."""
    failed = []
    for seed in seeds:
        try:
            World(seed).run()
        except Exception as error:  # whatever it is, the seed is what counts
            failed.append((seed, f"{type(error).__name__}: {error}"))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="one world, with the traceback if it fails")
    parser.add_argument("--seeds", type=int, default=1_000, help="so many worlds")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        World(arguments.seed).run()
        return
    failed = failures(iter(range(arguments.seeds)))
    for seed, error in failed:
        print(f"seed {seed}: {error}")
    print(f"{arguments.seeds - len(failed)} of {arguments.seeds} worlds hold")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
