"""Sets of whole numbers kept as ranges.

Guarantee: memory grows with the number of ranges, not of numbers; ranges stay disjoint, sorted and not adjacent.
The idea is the range set of QUIC implementations (RFC 9000, 19.3: acknowledged packet ranges): two parallel sorted
lists and binary search. Both ends of a range belong to it. Non-goal: ranges without an end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Range = tuple[int, int]


class RangeSet:
    """Whole numbers, as ``(first, last)`` ranges."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, *ranges: Range) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __len__(self) -> int:
        """The number of ranges."""
        return len(self._firsts)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def __contains__(self, number: int) -> bool:
        index = bisect_left(self._lasts, number)
        return index < len(self._firsts) and self._firsts[index] <= number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"RangeSet{tuple(self)!r}"

    @property
    def first(self) -> int:
        """The smallest number; the set must not be empty."""
        return self._firsts[0]

    @property
    def last(self) -> int:
        """The largest number; the set must not be empty."""
        return self._lasts[-1]

    def count(self) -> int:
        """How many numbers there are."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def range_at(self, number: int) -> Range | None:
        """The range that holds ``number``, if one does."""
        index = bisect_left(self._lasts, number)
        if index < len(self._firsts) and self._firsts[index] <= number:
            return self._firsts[index], self._lasts[index]
        return None

    def first_from(self, number: int) -> int | None:
        """The smallest number of the set that is not below ``number``."""
        index = bisect_left(self._lasts, number)
        return max(self._firsts[index], number) if index < len(self._firsts) else None

    def add(self, first: int, last: int) -> None:
        """Put ``first`` to ``last`` in, joining what overlaps or touches."""
        assert first <= last
        low = bisect_left(self._lasts, first - 1)  # one further on either side than overlaps: what touches is joined
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def take(self, first: int, last: int) -> list[Range]:
        """Remove ``first`` to ``last``; what of it was there, in order."""
        low = bisect_left(self._lasts, first)
        high = bisect_right(self._firsts, last)
        if low >= high:
            return []
        taken = [(max(first, self._firsts[index]), min(last, self._lasts[index])) for index in range(low, high)]
        remains = []
        if self._firsts[low] < first:
            remains.append((self._firsts[low], first - 1))
        if self._lasts[high - 1] > last:
            remains.append((last + 1, self._lasts[high - 1]))
        self._firsts[low:high] = [range_first for range_first, _ in remains]
        self._lasts[low:high] = [range_last for _, range_last in remains]
        return taken

    def within(self, first: int, last: int) -> list[Range]:
        """What of ``first`` to ``last`` is in the set, in order."""
        low = bisect_left(self._lasts, first)
        high = bisect_right(self._firsts, last)
        return [(max(first, self._firsts[index]), min(last, self._lasts[index])) for index in range(low, high)]

    def missing(self, first: int, last: int) -> list[Range]:
        """What of ``first`` to ``last`` is not in the set, in order."""
        holes = []
        for range_first, range_last in self.within(first, last):
            if first < range_first:
                holes.append((first, range_first - 1))
            first = range_last + 1
        if first <= last:
            holes.append((first, last))
        return holes
