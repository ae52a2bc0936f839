"""The core and a spool on disk against a simple model, driven by hypothesis: any interleaving, restarts included."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from settle_buffer import Conflict, Entry, Event, GapWaived, Late, Load, Release, SettleBuffer, SettleConfig, Spool
from tests.settle_buffer.makers import chain

COUNT = 30
FEED = {name: chain(name, COUNT) for name in "ab"}
CONFIG = SettleConfig(resident_entries=5, load_entries=4, late="quarantine", remembered=8, window_us=10)
picks = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, COUNT)), min_size=1, max_size=12)
runs = st.tuples(st.sampled_from("ab"), st.integers(1, COUNT), st.integers(1, COUNT))


class Model(RuleBasedStateMachine):
    """What must come out of a strand: every sequence up to the first that has neither arrived nor been waived."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.now = 0
        self.arrived: dict[str, set[int]] = {"a": set(), "b": set()}
        self.waived: dict[str, set[int]] = {"a": set(), "b": set()}
        self.late: set[Entry] = set()
        self.kept_late: set[Entry] = set()
        self.out: dict[str, list[Entry]] = {"a": [], "b": []}
        self.consumed = {"a": 0, "b": 0}  # how much of ``out`` the consumer holds durably
        self.loads: list[Load] = []
        self.stopped: set[str] = set()
        self.spool = Spool(self.directory / "spool")
        self.buffer = self.started()

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.directory)

    def started(self) -> SettleBuffer:
        buffer = SettleBuffer(CONFIG)
        for name, out in self.out.items():
            last = out[self.consumed[name] - 1] if self.consumed[name] else None
            buffer.start(name, last.sequence if last else 0, last.digest if last else b"")
        for certificate in self.spool.certificates():
            buffer.restore_waiver(certificate.strand, certificate.first, certificate.last)
        return buffer

    def take(self, events: list[Event]) -> None:
        late = [event.entry for event in events if isinstance(event, Late)]
        if late:
            self.spool.keep_late(late)
        self.kept_late.update(late)
        for event in events:
            if isinstance(event, Release):
                assert event.strand is not None
                self.out[event.strand] += event.entries
            elif isinstance(event, Load):
                self.loads.append(event)

    def offer(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.sequence in self.waived[entry.strand]:
                self.late.add(entry)
            else:
                self.arrived[entry.strand].add(entry.sequence)
        self.spool.append(entries)
        self.take(self.buffer.offer(entries, self.now))

    @rule(picks=picks)
    def scattered(self, picks: list[tuple[str, int]]) -> None:
        self.offer([FEED[name][sequence - 1] for name, sequence in picks])

    @rule(run=runs)
    def stretch(self, run: tuple[str, int, int]) -> None:
        name, first, last = run
        self.offer(FEED[name][min(first, last) - 1 : max(first, last)])

    @rule(later=st.integers(1, 50))
    def time_goes_by(self, later: int) -> None:
        self.now += later
        self.take(self.buffer.handle_timer(self.now))

    @precondition(lambda self: self.loads)
    @rule(limit=st.sampled_from([1, 1_000_000]))
    def load(self, limit: int) -> None:
        load = self.loads.pop(0)
        entries, last = self.spool.read(load.strand, load.first, load.last, limit)
        self.take(self.buffer.loaded(load.strand, load.first, last, entries, self.now))

    @rule(name=st.sampled_from("ab"), share=st.floats(0, 1))
    def consume(self, name: str, share: float) -> None:
        waiting = len(self.out[name]) - self.consumed[name]
        self.consumed[name] += int(waiting * share)
        if self.consumed[name]:
            self.spool.trim(name, self.out[name][self.consumed[name] - 1].sequence)

    @precondition(lambda self: self.buffer.status(self.now).gaps)
    @rule(data=st.data())
    def waive(self, data: st.DataObject) -> None:
        gap = data.draw(st.sampled_from(self.buffer.status(self.now).gaps))
        first = data.draw(st.integers(gap.first, gap.last))
        missing = set(range(first, gap.last + 1)) - self.arrived[gap.strand] - self.waived[gap.strand]
        if not missing:
            return
        self.spool.certify(self.buffer.waivers(gap.strand, first, gap.last, "ann", "a test", self.now))
        events = self.buffer.waive(gap.strand, first, gap.last, "ann", "a test", self.now)
        waived = [event.certificate for event in events if isinstance(event, GapWaived)]
        assert {n for c in waived for n in range(c.first, c.last + 1)} == missing
        self.waived[gap.strand] |= missing
        self.take(events)

    @rule()
    def crash(self) -> None:
        """Memory is lost; the spool's file and what the consumer holds are not."""
        self.spool.close()
        self.spool = Spool(self.directory / "spool")
        self.loads = []
        for name in "ab":
            del self.out[name][self.consumed[name] :]
        self.buffer = self.started()
        positions = {name: self.buffer.strand(name).released for name in "ab"}
        for entries in self.spool.recover(positions):
            self.take(self.buffer.offer(entries, self.now, again=True))

    @rule(name=st.sampled_from("ab"))
    def conflict(self, name: str) -> None:
        """Another content for an entry that is remembered or held: it stops the strand, and rejecting it cures that."""
        strand = self.buffer.strand(name)
        if not strand.released or strand.stopped or not self.out[name]:
            return
        last = self.out[name][-1]
        if last.sequence != strand.released:
            return
        other = last._replace(digest=b"other")
        self.spool.append([other])
        events = self.buffer.offer([other], self.now)
        assert [event.other for event in events if isinstance(event, Conflict)] == [other]
        assert not any(isinstance(event, Release) for event in events)
        self.spool.remove([other])
        self.take(self.buffer.resume(name, self.now))

    @invariant()
    def releases_what_is_proven(self) -> None:
        for name in "ab":
            closed = self.arrived[name] | self.waived[name]
            end = next(sequence for sequence in range(1, COUNT + 2) if sequence not in closed) - 1
            expected = [entry for entry in FEED[name][:end] if entry.sequence not in self.waived[name]]
            out = self.out[name]
            if any(load.strand == name for load in self.loads):
                assert out == expected[: len(out)]
            else:
                assert out == expected

    @invariant()
    def misses_what_is_missing(self) -> None:
        for name in "ab":
            closed = self.arrived[name] | self.waived[name]
            missing = {s for s in range(1, max(self.arrived[name], default=0)) if s not in closed}
            gaps = self.buffer.strand(name).gaps
            assert {s for gap in gaps for first, last in gap.missing for s in range(first, last + 1)} == missing

    @invariant()
    def keeps_the_late_ones(self) -> None:
        assert self.kept_late == self.late == {entry for _, entry in self.spool.late()}

    @invariant()
    def counts_what_it_holds(self) -> None:
        room = self.buffer.room
        assert room.resident_entries <= CONFIG.resident_entries
        held = sum(len([s for s in self.arrived[name] if s > self.buffer.strand(name).released]) for name in "ab")
        assert room.held_entries == held


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
