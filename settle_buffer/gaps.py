"""The open gaps of one strand.

Guarantee: a missing sequence is in exactly one open gap, and leaves it only by arriving or by a waiver; time changes
nothing but ``requests`` and ``expired``. A gap keeps the range that it was opened with, so its end is told as it began.

Life of a gap: open → requested, again and again → expired, yet open and requested still; from each → filled or waived.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from settle_buffer.ranges import Range, RangeSet


class Gap:
    """Missing sequences ``first`` to ``last``; ``missing`` is what of them is missing still."""

    __slots__ = ("expired", "first", "last", "missing", "opened_at", "requests")

    def __init__(self, first: int, last: int, opened_at: int) -> None:
        self.first = first
        self.last = last
        self.missing = RangeSet((first, last))
        self.opened_at = opened_at
        self.requests = 0
        self.expired = False

    @property
    def closed(self) -> bool:
        return not self.missing


class GapList:
    """Open gaps in order; their ranges do not overlap."""

    __slots__ = ("_firsts", "_gaps")

    def __init__(self) -> None:
        self._gaps: list[Gap] = []
        self._firsts: list[int] = []

    def __len__(self) -> int:
        return len(self._gaps)

    def __iter__(self) -> Iterator[Gap]:
        return iter(self._gaps)

    def first_missing(self) -> int | None:
        """The smallest missing sequence."""
        return self._gaps[0].missing.first if self._gaps else None

    def oldest_at(self) -> int | None:
        """When the gap that has been open longest was opened."""
        return min((gap.opened_at for gap in self._gaps), default=None)

    def open(self, first: int, last: int, now: int) -> Gap:
        """A new gap; with gaps that it overlaps it becomes one, as old as the oldest of them."""
        low, high = self._span(first, last)
        gap = Gap(first, last, now)
        for other in self._gaps[low:high]:
            gap.first, gap.last = min(gap.first, other.first), max(gap.last, other.last)
            gap.opened_at = min(gap.opened_at, other.opened_at)
            gap.requests = max(gap.requests, other.requests)
            for other_first, other_last in other.missing:
                gap.missing.add(other_first, other_last)
            other.missing = RangeSet()  # closed, for whoever holds it still: its timer is then passed over
        self._gaps[low:high] = [gap]
        self._firsts[low:high] = [gap.first]
        return gap

    def take(self, first: int, last: int) -> tuple[list[Range], list[Gap]]:
        """``first`` to ``last`` are no longer missing: what of it was, and the gaps that this closed."""
        low, high = self._span(first, last)
        pieces: list[Range] = []
        closed: list[Gap] = []
        for gap in self._gaps[low:high]:
            pieces += gap.missing.take(first, last)
            if gap.closed:
                closed.append(gap)
        if closed:
            self._gaps[low:high] = still_open = [gap for gap in self._gaps[low:high] if not gap.closed]
            self._firsts[low:high] = [gap.first for gap in still_open]
        return pieces, closed

    def missing_within(self, first: int, last: int) -> list[Range]:
        """What of ``first`` to ``last`` is missing."""
        low, high = self._span(first, last)
        return [piece for gap in self._gaps[low:high] for piece in gap.missing.within(first, last)]

    def _span(self, first: int, last: int) -> tuple[int, int]:
        """The indexes of the gaps that may overlap ``first`` to ``last``."""
        # Gaps do not overlap, so only the one that begins last at or before ``first`` may reach into it.
        low = bisect_right(self._firsts, first) - 1
        if low < 0 or self._gaps[low].last < first:
            low += 1
        return low, bisect_left(self._firsts, last + 1)
