"""From where a sequence goes on, over thousands of drawn cases."""

from __future__ import annotations

import itertools
import random

import pytest

from replicator.cluster.promotion.sequence_values import SequenceFacts, goes_on, reserve_of


def drawn(draws: random.Random) -> tuple[SequenceFacts, list[int], int]:
    step = draws.choice([1, 1, 2, 7, 1000, -1, -3])
    low = draws.choice([1, -(2**63), -1000, 0])
    high = draws.choice([2**15 - 1, 2**31 - 1, 2**63 - 1, 1000])
    start = draws.randint(low, high)
    last = draws.choice([None, draws.randint(low, high), start])
    facts = SequenceFacts(start, step, low, high, draws.choice([1, 1, 50]), last)
    near = [draws.randint(max(low, start - 500), min(high, start + 500)) for _ in range(draws.randint(0, 4))]
    beyond = draws.choice([[], [], [], [draws.randint(-(2**62), 2**62)]])  # somebody inserted an id by hand
    return facts, near + beyond, draws.choice([0, 10, 1000, 200_000])


def next_value(facts: SequenceFacts, value: int | None) -> int | None:
    """What nextval gives then; None if it says that the sequence is at its end."""
    last = facts.last if value is None else value
    after = facts.start if last is None else last + facts.increment
    return after if facts.low <= after <= facts.high else None


@pytest.mark.parametrize("seed", range(4))
def test_behind_all_that_is_used_within_its_bounds_and_never_back(seed: int) -> None:
    draws = random.Random(seed)
    for _ in range(5_000):
        facts, used, reserve = drawn(draws)
        value, left_out = goes_on(facts, used, reserve)
        up = facts.increment > 0
        assert value is None or facts.low <= value <= facts.high
        if value is not None and facts.last is not None:
            assert (value > facts.last) == up
            assert value != facts.last
        given = next_value(facts, value)
        for one in used:
            if given is not None:
                assert (given > one) == up, (facts, used, value)
        if given is not None and used:
            furthest = max(used) if up else min(used)
            assert abs(given - furthest) > left_out * abs(facts.increment)
        assert 0 <= left_out <= reserve + facts.cache


@pytest.mark.parametrize("seed", range(2))
def test_again_changes_nothing(seed: int) -> None:
    draws = random.Random(seed)
    for _ in range(5_000):
        facts, used, reserve = drawn(draws)
        value, _ = goes_on(facts, used, reserve)
        if value is not None:
            assert goes_on(facts._replace(last=value), used, reserve).value is None


def test_the_reserve_is_whole_where_there_is_room_and_half_of_the_room_where_not() -> None:
    facts = SequenceFacts(1, 1, 1, 1000, 1, None)
    assert goes_on(facts, [100], 50) == (151, 51)
    assert goes_on(facts, [900], 500) == (950, 50)
    assert goes_on(facts, [1000], 500) == (1000, 0)
    assert goes_on(facts, [], 500) == (500, 500)
    assert goes_on(facts._replace(last=700), [100], 50).value is None


@pytest.mark.parametrize("seed", range(2))
def test_each_further_epoch_goes_on_behind_the_one_before_while_there_is_room(seed: int) -> None:
    """From one carried value, for nobody has heard what the regions in between handed out: at least a reserve each, or
    half of the room that is left."""
    draws = random.Random(seed)
    for _ in range(5_000):
        facts, used, reserve = drawn(draws)
        facts = facts._replace(last=None)
        earlier = [goes_on(facts, used, reserve, epochs) for epochs in range(1, 6)]
        for first, second in itertools.pairwise(earlier):
            assert second.reserve >= first.reserve
            assert first.value is not None
            assert second.value is not None
            room = abs((facts.high if facts.increment > 0 else facts.low) - first.value) // abs(facts.increment)
            least = min(reserve + facts.cache, room // 2)
            # With nothing in use beyond its bounds; else it stands at its end.
            assert second.reserve - first.reserve >= least or first.value in (facts.low, facts.high)


def test_the_reserve_follows_how_often_sequences_are_read() -> None:
    assert reserve_of(5.0) == 300_000
    assert reserve_of(60.0) > reserve_of(5.0) > reserve_of(0.0) > 0
