"""What canaries tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.ops.drills.rules.measures import (
    Canary,
    WriteOutage,
    first_write,
    is_interruption,
    longest_gap,
    missing,
    spread,
)


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
