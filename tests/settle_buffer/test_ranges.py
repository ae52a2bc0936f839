"""The range set against a plain set of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from settle_buffer.ranges import RangeSet

ranges = st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))
steps = st.lists(st.tuples(st.booleans(), ranges), max_size=40)


@given(steps, ranges)
def test_behaves_as_a_set_of_numbers(steps: list[tuple[bool, tuple[int, int]]], probe: tuple[int, int]) -> None:
    ours, model = RangeSet(), set[int]()
    for adding, (first, last) in steps:
        numbers = set(range(first, last + 1))
        if adding:
            ours.add(first, last)
            model |= numbers
        else:
            taken = {n for a, b in ours.take(first, last) for n in range(a, b + 1)}
            assert taken == model & numbers
            model -= numbers
        listed = list(ours)
        assert {n for a, b in listed for n in range(a, b + 1)} == model
        assert all(a[1] + 1 < b[0] for a, b in pairwise(listed)), "disjoint and not adjacent"
    wanted = set(range(probe[0], probe[1] + 1))
    assert {n for a, b in ours.within(*probe) for n in range(a, b + 1)} == model & wanted
    assert {n for a, b in ours.missing(*probe) for n in range(a, b + 1)} == wanted - model
    assert (probe[0] in ours) == (probe[0] in model)
    assert ours.first_from(probe[0]) == min((n for n in model if n >= probe[0]), default=None)
    assert ours.count() == len(model)
