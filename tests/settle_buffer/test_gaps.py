"""Open gaps: opened, narrowed, joined."""

from __future__ import annotations

from settle_buffer.gaps import GapList


def test_a_gap_narrows_until_it_closes() -> None:
    gaps = GapList()
    gap = gaps.open(5, 9, now=1)
    assert gaps.take(6, 7) == ([(6, 7)], [])
    assert (gaps.first_missing(), list(gap.missing)) == (5, [(5, 5), (8, 9)])
    assert gaps.take(1, 100) == ([(5, 5), (8, 9)], [gap])
    assert (len(gaps), gap.closed, gaps.first_missing()) == (0, True, None)


def test_a_gap_that_overlaps_others_becomes_one_with_them_as_old_as_the_oldest() -> None:
    gaps = GapList()
    first, second = gaps.open(5, 9, now=1), gaps.open(20, 29, now=2)
    first.requests = 3
    gaps.take(6, 8)
    joined = gaps.open(8, 22, now=7)
    assert list(gaps) == [joined]
    assert (joined.first, joined.last, joined.opened_at, joined.requests) == (5, 29, 1, 3)
    assert list(joined.missing) == [(5, 5), (8, 29)]
    assert first.closed
    assert second.closed
    assert gaps.oldest_at() == 1


def test_only_the_gaps_that_are_touched_are_changed() -> None:
    gaps = GapList()
    for first in (10, 20, 30):
        gaps.open(first, first + 4, now=first)
    assert gaps.missing_within(12, 31) == [(12, 14), (20, 24), (30, 31)]
    pieces, closed = gaps.take(15, 29)
    assert (pieces, [gap.first for gap in closed]) == ([(20, 24)], [20])
    assert [gap.first for gap in gaps] == [10, 30]
