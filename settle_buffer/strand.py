"""One strand in sequence order.

Guarantee: entries leave in sequence, each once, none behind a missing one; a second content for one sequence, or an
entry that names another predecessor, stops the strand and releases neither.

The idea: entries move as runs of consecutive sequences. Everything up to ``released`` is out; from there to ``top``
each sequence is held in memory, spilled (it is in the spool, only its number is kept here), waived, or in an open gap.
"""

from __future__ import annotations

from itertools import pairwise

from settle_buffer.config import SettleConfig
from settle_buffer.entry import Entry, digest_of, link_of
from settle_buffer.errors import Misuse
from settle_buffer.events import (
    Certificate,
    Conflict,
    Correction,
    Duplicate,
    Event,
    GapFilled,
    GapOpened,
    GapWaived,
    Late,
    Load,
    Release,
    Stopped,
)
from settle_buffer.gaps import Gap, GapList
from settle_buffer.memory import ReleasedDigests, Room
from settle_buffer.ranges import RangeSet
from settle_buffer.waiting import HeldEntries


class Strand:
    """The sequence state of one strand; ``opened`` collects new gaps until the owner has armed their timers."""

    def __init__(self, name: str, config: SettleConfig, room: Room, sequence: int, digest: bytes, at: int) -> None:
        self.name = name
        self.released = sequence
        self.digest = digest  # of the entry at ``released``; empty where it is not known
        self.at = at
        self.top = sequence
        self.gaps = GapList()
        self.opened: list[Gap] = []
        self.waived = RangeSet()
        self.stopped = ""
        self.paused = False  # what follows has no room for more
        self.duplicates = self.late = self.conflicts = 0
        self._config = config
        self._waiting = HeldEntries(room, config.load_entries)
        self._memory = ReleasedDigests(config.remembered)

    def take(self, entries: list[Entry], sequences: list[int], now: int, events: list[Event]) -> None:
        """Entries of this strand, in any order."""
        first = sequences[0]
        # One run, as a feed that keeps its order brings them, is the case that has to be fast.
        if sequences[-1] - first + 1 == len(sequences) and sequences == list(range(first, first + len(sequences))):
            self._take_run(entries, first, now, events)
        else:
            edges = [0, *(i for i, (a, b) in enumerate(pairwise(sequences), 1) if b != a + 1), len(sequences)]
            for start, end in pairwise(edges):
                self._take_run(entries[start:end], sequences[start], now, events)
        if self.top > self.released:
            self._advance(events)

    def is_next(self, entries: list[Entry], sequences: list[int]) -> bool:
        """Whether taking these would release them all at once: nothing waits, and place and links say that they are
        next."""
        first, count = self.released + 1, len(entries)
        # The links, too: what would stop the strand has to be durable when a person looks at it, and so is spooled.
        return (
            self._flows
            and self.top == self.released
            and sequences == list(range(first, first + count))
            and not (self.waived and self.waived.within(first, first + count - 1))
            and _first_broken(self.digest, list(map(digest_of, entries)), list(map(link_of, entries))) is None
        )

    @property
    def _flows(self) -> bool:
        return not self.stopped and not self.paused

    def misses(self, sequence: int) -> bool:
        """Whether this sequence is missing in an open gap."""
        return bool(self.gaps) and bool(self.gaps.missing_within(sequence, sequence))

    def loaded(self, first: int, last: int, entries: list[Entry], now: int, events: list[Event]) -> None:
        """The spool's answer to ``Load``: every copy it has of ``first`` to ``last``."""
        if not self._waiting.is_asked(first, last):
            raise Misuse("not_asked", f"sequences {first} to {last} were not to be loaded", place=self._place())
        complete = self._waiting.answer(first, last)
        copies: dict[int, Entry] = {}
        for entry in entries:
            copy = copies.setdefault(entry.sequence, entry)
            if copy.digest != entry.digest and first <= entry.sequence <= last:
                self.conflict("digest", copy.digest, copy, entry, events)
        # Not complete: something of it was discarded since it was asked for, and the rest is asked for again.
        if complete and not self.stopped:
            self._unspill(first, last, copies, now, events)
        self._advance(events)

    def waivers(self, first: int, last: int, who: str, why: str, now: int) -> list[Certificate]:
        """The certificates that a waiver of ``first`` to ``last`` would give: one for each missing range of it."""
        return [
            Certificate(self.name, *piece, gap.opened_at, now, gap.requests, "waived", "operator", who, why)
            for gap in self.gaps
            for piece in gap.missing.within(first, last)
        ]

    def waive(self, certificates: list[Certificate], events: list[Event]) -> None:
        """Close what these waivers name."""
        for certificate in certificates:
            self.gaps.take(certificate.first, certificate.last)
            self.waived.add(certificate.first, certificate.last)
            events.append(GapWaived(certificate))
        self._advance(events)

    def stop(self, reason: str, events: list[Event]) -> None:
        """Release nothing more."""
        if not self.stopped:
            self.stopped = reason
            events.append(Stopped(self.name, reason))

    def resume(self, events: list[Event]) -> None:
        """Go on after a stop."""
        self.stopped = ""
        self._advance(events)

    def unpause(self, events: list[Event]) -> None:
        """There is room again behind this strand."""
        self.paused = False
        self._advance(events)

    def expect(self, sequence: int, now: int, events: list[Event]) -> None:
        """The feed says that it has sent everything up to ``sequence``: what is not here is missing."""
        if sequence > self.top:  # one that is behind says nothing new: heartbeats may overtake each other
            for first, last in self.waived.missing(self.top + 1, sequence):
                self._open(first, last, now, events)
            self.top = sequence
            self._advance(events)

    def discard(self, first: int, last: int, now: int, events: list[Event]) -> None:
        """Forget what waits of ``first`` to ``last``: it becomes a gap, to be fetched again."""
        if first <= self.released or last > self.top:
            raise Misuse("not_waiting", f"sequences {first} to {last} do not wait here", place=self._place())
        self._waiting.discard(first, last)
        for hole_first, hole_last in self.waived.missing(first, last):
            self._open(hole_first, hole_last, now, events)

    def _take_run(self, run: list[Entry], first: int, now: int, events: list[Event]) -> None:
        """A run of consecutive sequences: behind, inside or beyond what is known, or across these borders."""
        if self.waived and self.waived.within(first, first + len(run) - 1):  # most strands never have a waiver
            self._take_around_waived(run, first, now, events)
            return
        # Next, and nothing waits: the whole of a calm feed, so it passes without a look at gaps and what is held.
        if first == self.top + 1 and self.top == self.released and self._flows:
            self.top += len(run)
            self._release_or_hold(run, first, events)
            return
        for border, step in ((self.released, self._behind), (self.top, self._inside)):
            count = min(border - first + 1, len(run))
            if count > 0:
                step(run[:count], first, now, events)
                run = run[count:]
                first += count
        if run:
            self._beyond(run, first, now, events)

    def _take_around_waived(self, run: list[Entry], first: int, now: int, events: list[Event]) -> None:
        """Waived sequences that come after all are late; the rest is taken as usual."""
        last = first + len(run) - 1
        # What is wanted first: the late ones may stop the strand, by policy, and must not hold the others back.
        for piece_first, piece_last in self.waived.missing(first, last):
            self._take_run(run[piece_first - first : piece_last - first + 1], piece_first, now, events)
        for piece_first, piece_last in self.waived.within(first, last):
            for entry in run[piece_first - first : piece_last - first + 1]:
                self.call_late(entry, events)

    def call_late(self, entry: Entry, events: list[Event], front: int | None = None) -> None:
        """What the policy says about a late entry; ``front`` is the event time of the last one released before it,
        None where only the sequence tells that it is late."""
        self.late += 1
        events.append(Late(entry, self._config.late, 0 if front is None else front - entry.at))
        if self._config.late == "halt":
            self.stop("late", events)
        elif self._config.late == "correct":
            keys = self._config.keys_of(entry) if self._config.keys_of else None
            first, last = (entry.sequence, self.released) if front is None else (entry.at, front)
            events.append(Correction(entry, keys, first, max(first, last)))

    def _behind(self, run: list[Entry], first: int, now: int, events: list[Event]) -> None:
        """Released already: duplicates, or conflicts where the digest is remembered and differs."""
        same = unproven = 0
        for entry in run:
            # After a restart the memory is empty, but for the last one, which the consumer's position names.
            digest = self.digest if entry.sequence == self.released else self._memory.get(entry.sequence)
            if not digest:
                unproven += 1
            elif digest == entry.digest:
                same += 1
            else:
                self.conflict("digest", digest, None, entry, events)
        self.count_duplicates(same + unproven, unproven, events)

    def _inside(self, run: list[Entry], first: int, now: int, events: list[Event]) -> None:
        """Between released and top: what was missing is new, the rest is here already."""
        last = first + len(run) - 1
        pieces, closed = self.gaps.take(first, last)
        new = 0
        for piece_first, piece_last in pieces:
            new += piece_last - piece_first + 1
            self._release_or_hold(run[piece_first - first : piece_last - first + 1], piece_first, events)
        for gap in closed:
            events.append(self._filled(gap, run[-1], now))
        if new < len(run):  # only then the entries are looked at one by one
            missing = RangeSet(*pieces)
            self._known([entry for entry in run if entry.sequence not in missing], events)

    def _known(self, again: list[Entry], events: list[Event]) -> None:
        """Entries that wait here already. Spilled ones are compared when they are loaded: the spool keeps both."""
        same = unproven = 0
        for entry in again:
            mine = self._waiting.held(entry.sequence)
            if mine is None:
                unproven += 1
            elif mine.digest == entry.digest:
                same += 1
            else:
                self.conflict("digest", mine.digest, mine, entry, events)
        self.count_duplicates(same + unproven, unproven, events)

    def _beyond(self, run: list[Entry], first: int, now: int, events: list[Event]) -> None:
        """Above everything known: what lies between is missing from now on."""
        if first > self.top + 1:
            for hole_first, hole_last in self.waived.missing(self.top + 1, first - 1):
                self._open(hole_first, hole_last, now, events)
        self.top = first + len(run) - 1
        self._release_or_hold(run, first, events)

    def _open(self, first: int, last: int, now: int, events: list[Event]) -> None:
        self.opened.append(self.gaps.open(first, last, now))
        events.append(GapOpened(self.name, first, last))

    def _filled(self, gap: Gap, by: Entry, now: int) -> GapFilled:
        certificate = None
        if gap.requests:
            known_by = "links" if by.link else "entries"  # links prove that nothing lies between
            certificate = Certificate(
                self.name, gap.first, gap.last, gap.opened_at, now, gap.requests, "filled", known_by, "", ""
            )
        return GapFilled(self.name, gap.first, gap.last, gap.opened_at, certificate)

    def _release_or_hold(self, run: list[Entry], first: int, events: list[Event]) -> None:
        """A new run: out at once if it is the next, else it waits, in memory while there is room."""
        if first == self.released + 1 and self._flows:
            self._release(run, events)
        else:
            self._waiting.add(run, first)

    def _advance(self, events: list[Event]) -> None:
        """Release all that is due; ask for what is due and spilled."""
        while self._flows:
            following = self.released + 1
            jump = self.waived.range_at(following) if self.waived else None
            if jump is not None:
                # What stood there is not known, so the next one's link cannot be proven against it.
                self.released, self.digest = jump[1], b""
                self.top = max(self.top, self.released)
                continue
            last = self._due_last(following)
            if last < following:
                return
            if self._waiting.held(following) is None:  # spilled: nothing leaves before the spool has answered
                asked = self._waiting.ask(following, last)
                if asked is not None:
                    events.append(Load(self.name, *asked))
                return
            self._release(self._waiting.take(following, last), events)

    def _due_last(self, following: int) -> int:
        """The end of the run of one kind, held or spilled, that begins at ``following``."""
        last = self.top
        missing = self.gaps.first_missing()
        if missing is not None:
            last = min(last, missing - 1)
        if self.waived:
            waived = self.waived.first_from(following)
            last = last if waived is None else min(last, waived - 1)
        return self._waiting.end(following, last)

    def _unspill(self, first: int, last: int, copies: dict[int, Entry], now: int, events: list[Event]) -> None:
        """Loaded entries are due. One that the spool has lost becomes a gap, to be fetched again."""
        self._waiting.unspill(first, last)
        run = [copies[sequence] for sequence in range(first, last + 1) if sequence in copies]
        if len(run) == last - first + 1:
            self._release(run, events)
            return
        there = RangeSet(*((entry.sequence, entry.sequence) for entry in run))
        for hole_first, hole_last in there.missing(first, last):
            self._open(hole_first, hole_last, now, events)
        self._waiting.keep(run)

    def _release(self, run: list[Entry], events: list[Event]) -> None:
        """Out with a run that is next, as far as its links prove it; a broken link stops the strand before it."""
        digests = list(map(digest_of, run))
        broken = _first_broken(self.digest, digests, list(map(link_of, run)))
        rest: list[Entry] = []
        if broken is not None:
            run, digests, rest = run[:broken], digests[:broken], run[broken:]
        if run:
            self._memory.add(self.released + 1, digests)
            self.released += len(run)
            self.digest = digests[-1]
            self.at = run[-1].at
            events.append(Release(self.name, run))
        if rest:  # kept, whatever the room: they are out of the waiting list, and a person may yet let them go on
            self._waiting.keep(rest)
            self.conflict("link", self.digest, run[-1] if run else None, rest[0], events)

    def conflict(self, kind: str, digest: bytes, mine: Entry | None, other: Entry, events: list[Event]) -> None:
        """Show both and stop."""
        self.conflicts += 1
        events.append(Conflict(self.name, other.sequence, kind, digest, mine, other))
        self.stop("conflict", events)

    def count_duplicates(self, count: int, unproven: int, events: list[Event]) -> None:
        """Tell of copies that were dropped."""
        if not count:
            return
        self.duplicates += count
        events.append(Duplicate(self.name, count, unproven))

    def _place(self) -> str:
        return f"strand {self.name}"


def _first_broken(before: bytes, digests: list[bytes], links: list[bytes]) -> int | None:
    """The index of the first entry whose link names another predecessor; an empty link or digest proves nothing."""
    if links[0] == before and links[1:] == digests[:-1]:  # compared as lists, in C: whole runs are sound
        return None
    for index, link in enumerate(links):
        if link and before and link != before:
            return index
        before = digests[index]
    return None
