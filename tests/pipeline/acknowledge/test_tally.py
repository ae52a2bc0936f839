"""Counting who has what, against a plain model that remembers every block; and degrading, with its way back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from replicator.pipeline.acknowledge.confirmations import ORIGINS_LIMIT, ConfirmationQueue
from replicator.pipeline.acknowledge.tally import MARKS_LIMIT, AcknowledgeRule, AcknowledgeTally, acknowledged

PATIENCE = 8.0
NAMES = ("eu", "us", "ap", "stranger")
counting = st.fixed_dictionaries(
    {
        "count": st.integers(1, 3),
        "missing": st.sampled_from(["wait", "degrade"]),
        "regions": st.sampled_from([None, frozenset({"eu", "us", "ap"})]),
    }
)


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=6), st.integers(1, 7))
def test_what_is_acknowledged_is_the_most_that_so_many_have(reports: dict[str, int], count: int) -> None:
    found = acknowledged(reports, count)
    if len(reports) < count:
        assert found == 0
        return
    assert sum(reported >= found for reported in reports.values()) >= count
    assert sum(reported >= found + 1 for reported in reports.values()) < count


class Counting(RuleBasedStateMachine):
    """Blocks are stored, regions report what they like, time passes, and somebody looks."""

    @initialize(fields=counting, head=st.integers(0, 5))
    def begin(self, fields: Any, head: int) -> None:
        self.rule = AcknowledgeRule(degrade_after_seconds=PATIENCE, **fields)
        self.now = 0.0
        self.tally = AcknowledgeTally(self.rule, head, self.now)
        self.stored_at = dict.fromkeys(range(1, head + 1), 0.0)
        self.reports: dict[str, int] = {}
        self.released = 0
        self.degraded_at = 0.0

    @rule(blocks=st.integers(1, 5))
    def store(self, blocks: int) -> None:
        head = len(self.stored_at)
        self.stored_at.update(dict.fromkeys(range(head + 1, head + blocks + 1), self.now))
        self.tally.store(head + blocks, self.now)

    @rule(name=st.sampled_from(NAMES), back=st.integers(0, 8))
    def report(self, name: str, back: int) -> None:
        before = self.tally.acknowledged
        self.reports[name] = max(0, len(self.stored_at) - back)
        self.tally.report(name, self.reports[name])
        for sequence in range(self.tally.acknowledged + 1, min(before, len(self.stored_at)) + 1):
            self.stored_at[sequence] = self.now  # it was acknowledged, and waits again from now on

    @rule(seconds=st.floats(0.01, 3.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def look(self) -> None:
        was, age = self.tally.degraded, self.tally.age_seconds(self.now)
        change = self.tally.look(self.now)
        assert (change is not None) == (was != self.tally.degraded)
        if change == "degraded":
            assert self.rule.missing == "degrade"
            assert age >= PATIENCE
            self.degraded_at = self.now
        if change == "restored":
            assert age <= PATIENCE / 4
            assert self.now - self.degraded_at >= PATIENCE / 2, "no flapping"

    @invariant()
    def is_counted(self) -> None:
        tally = self.tally
        mine = {name: at for name, at in self.reports.items() if self.rule.regions is None or name in self.rule.regions}
        ranked = sorted(mine.values())
        expected = ranked[-self.rule.count] if len(ranked) >= self.rule.count else 0
        assert tally.acknowledged == expected
        assert tally.having(expected + 1) < self.rule.count
        assert self.released <= tally.released <= tally.stored, "it never goes back, and never beyond what is here"
        assert tally.released >= min(expected, tally.stored)
        if self.rule.missing == "wait":
            assert tally.released == max(self.released, min(expected, tally.stored))
        self.released = tally.released

    @invariant()
    def has_an_age(self) -> None:
        oldest = self.stored_at.get(self.tally.acknowledged + 1)
        age = self.tally.age_seconds(self.now)
        if oldest is None:
            assert age == 0
            return
        assert age >= self.now - oldest - 1e-6, "never too young"


TestCounting = Counting.TestCase


def new(missing: Any = "degrade", count: int = 1, head: int = 0) -> AcknowledgeTally:
    return AcknowledgeTally(AcknowledgeRule(count, missing, PATIENCE), head, 0.0)


def test_an_age_is_known_closely_however_far_behind_the_regions_are() -> None:
    """A thousand blocks a second, acknowledged half a patience later."""
    tally = new()
    tally.report("eu", 0)
    for tick in range(1, 20_001):
        now = tick / 1000
        tally.store(tick, now)
        tally.report("eu", max(0, tick - 4000))
        if tick % 400 == 0:
            assert tally.look(now) is None
        if tick > 4500 and tick % 100 == 0:
            assert 3.999 - 1e-6 <= tally.age_seconds(now) <= 4.0 + PATIENCE / 32


def test_memory_is_bounded_however_long_writers_wait() -> None:
    tally = new("wait")
    for tick in range(1, 50_001):
        tally.store(tick, float(tick))
    assert len(tally._marks) <= MARKS_LIMIT
    assert tally.age_seconds(50_000.0) >= 49_999


def test_nobody_there_at_the_start_degrades_after_the_patience() -> None:
    tally = new(head=10)
    assert tally.look(PATIENCE - 0.1) is None
    assert tally.look(PATIENCE) == "degraded"
    assert tally.released == 10


def test_it_is_restored_only_when_the_regions_keep_up_for_a_while() -> None:
    tally = new(head=10)
    tally.look(PATIENCE)
    tally.store(11, 9.0)
    assert tally.released == 11, "who writes now does not wait"
    tally.report("eu", 11)
    assert tally.look(10.0) is None
    tally.store(12, 10.5)
    assert tally.look(13.0) is None  # the region is behind by more than a quarter again
    tally.report("eu", 12)
    assert [tally.look(at) for at in (14.0, 16.0, 17.9)] == [None, None, None]
    assert tally.look(18.0) == "restored"
    tally.store(13, 18.5)
    assert tally.released == 12, "writers wait again"


def test_an_idle_primary_whose_regions_have_everything_stays_as_it_is() -> None:
    tally = new(head=10)
    tally.report("eu", 10)
    assert tally.look(1e9) is None


# -- what a source's ledger hears


@given(st.lists(st.one_of(st.integers(1, 4), st.integers(-9, 0)), max_size=40), st.integers(0, 6))
def test_an_origin_is_confirmed_when_it_and_all_before_it_are_released(steps: list[int], head: int) -> None:
    """A step above 0 stores so many blocks; another releases up to so far behind the end."""
    confirming = ConfirmationQueue()
    confirmed = 0
    released = 0
    stored = head
    origin = confirming.begin(head, str(head) if head else None)
    assert origin is None
    for step in steps:
        if step > 0:
            origin = confirming.add([(stored + n, str(stored + n)) for n in range(1, step + 1)])
            stored += step
        else:
            released = max(released, stored + step)
            origin = confirming.release(stored + step)
        if origin is not None:
            assert confirmed < int(origin) <= released
            confirmed = int(origin)
    assert confirming.release(stored) in (None, str(stored))


def test_too_many_origins_are_thinned_and_the_last_is_kept() -> None:
    confirming = ConfirmationQueue()
    confirming.add([(n, str(n)) for n in range(1, ORIGINS_LIMIT + 2)])
    assert len(confirming._waiting) <= ORIGINS_LIMIT // 2 + 1
    origin = confirming.release(1000)
    assert origin is not None
    assert 998 <= int(origin) <= 1000
    assert confirming.release(ORIGINS_LIMIT + 1) == str(ORIGINS_LIMIT + 1)
