"""What canaries tell, and the verdict over it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.ops.drills.measures import (
    Canary,
    WriteOutage,
    first_write,
    is_interruption,
    longest_gap,
    missing,
    spread,
)
from replicator.ops.drills.plan import DrillTargets, Expect
from replicator.ops.drills.verdict import as_expected, equal_regions, judged, outcome_of


def canaries(*acks: float, region: str = "paris") -> list[Canary]:
    return [Canary(number, at - 0.01, at, region) for number, at in enumerate(acks, 1)]


def test_blocked_is_the_longest_time_without_an_acknowledged_write_around_the_event() -> None:
    some = canaries(1.0, 1.1, 1.2, 3.2, 3.3, 9.0)
    assert longest_gap(some, 1.15, 3.25) == WriteOutage(1.2, 3.2)
    assert longest_gap(some, 2.0, 2.5) == WriteOutage(1.2, 3.2)  # it began before, and ends after
    assert longest_gap(some, 3.25, 4.0) == WriteOutage(3.3, 9.0)
    assert longest_gap([], 2.0, 5.0) == WriteOutage(2.0, 5.0)
    assert longest_gap(some, 9.0, 12.0) == WriteOutage(9.0, 12.0)  # nobody has written since


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(0, 100), st.floats(0, 100))
def test_no_write_is_acknowledged_within_the_longest_gap(acks: list[float], one: float, other: float) -> None:
    began, ended = sorted((one, other))
    gap = longest_gap(canaries(*acks), began, ended)
    assert not [at for at in acks if gap.began < at < gap.ended]
    assert gap.ended >= began
    assert gap.began <= ended


def test_a_pause_between_two_turns_is_no_interruption() -> None:
    assert not is_interruption(WriteOutage(0, 0.15), 20)
    assert not is_interruption(WriteOutage(0, 0.45), 20)
    assert is_interruption(WriteOutage(0, 0.6), 20)
    assert not is_interruption(WriteOutage(0, 0.15), 200)
    assert is_interruption(WriteOutage(0, 0.25), 200)


def test_the_first_write_may_be_asked_of_a_region() -> None:
    some = canaries(1.0, 2.0) + canaries(2.5, 3.0, region="tokyo")
    assert first_write(some, 1.5) == some[1]
    assert first_write(some, 1.5, "tokyo") == some[2]
    assert first_write(some, 5.0) is None


def test_only_what_was_acknowledged_can_be_lost() -> None:
    found = missing(canaries(1.0, 2.0, 3.0), {1, 3, 4}, 2.5)
    assert (found.blocks, found.amount, found.numbers) == (1, 2.5, [2])


def test_a_distribution_is_by_nearest_rank() -> None:
    assert spread([]) is None
    found = spread(float(number) for number in range(1, 201))
    assert found == (200, 100.0, 198.0, 200.0)
    assert spread([7.0]) == (1, 7.0, 7.0, 7.0)


TARGETS = DrillTargets.model_validate({"rpo_blocks": 0, "rto": "2s", "max_blocked": "1s", "amounts": {"EUR": 1.0}})


def test_each_target_is_judged_by_what_was_measured() -> None:
    met = {one.name: one.met for one in judged(TARGETS, 0, {"EUR": 1.0}, 2.0, 1.5)}
    assert met == {"rpo_blocks": True, "rpo EUR": True, "rto": True, "max_blocked": False}


def test_what_was_not_measured_is_not_met() -> None:
    assert not any(one.met for one in judged(TARGETS, None, None, None, None))
    assert judged(DrillTargets(), None, None, None, None) == []


def test_regions_have_to_be_equal_and_compared() -> None:
    assert equal_regions(["reference", "equal"]).met
    assert not equal_regions(["reference", "divergent"]).met
    assert not equal_regions([]).met
    assert equal_regions(["reference", "could not be compared: x", "divergent"]).measured == 2


@pytest.mark.parametrize(
    ("expected", "changed", "met"), [("failover", False, False), ("no_failover", True, False), ("failover", True, True)]
)
def test_a_change_of_the_primary_is_as_expected_or_not(expected: Expect, changed: bool, met: bool) -> None:
    found = as_expected(expected, changed)
    assert found is not None
    assert found.met is met
    assert as_expected("either", changed) is None


def test_the_outcome() -> None:
    good, bad = equal_regions(["equal"]), equal_regions(["divergent"])
    assert outcome_of([good], "", "") == "passed"
    assert outcome_of([good, bad], "", "") == "missed"
    assert outcome_of([good], "at risk", "") == "stopped"
    assert outcome_of([good], "at risk", "not undone") == "failed"
