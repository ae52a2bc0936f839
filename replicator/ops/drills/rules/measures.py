"""What canaries tell: how long writers were blocked, how long until the first write after the event, what is missing.

A canary is one transaction, hence one block. Guarantee: blocked is the longest time between two acknowledged writes of
all writers together, while new writers came at a steady rate all the time (so a pause cannot hide behind writers who
wait); a canary counts as lost only if it was acknowledged.

Pure: no clock, no I/O. Times are seconds since the drill began.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

PAUSES = 10  # a gap of so many turns is an interruption …
PAUSE_SECONDS = 0.2  # … if it is longer than this, too


class Canary(NamedTuple):
    """A write that was acknowledged: by which region, when it was first sent, and after how many attempts."""

    number: int
    sent_at: float
    acked_at: float
    region: str
    position: str = ""
    attempts: int = 1


class WriteOutage(NamedTuple):
    """A time between two acknowledged writes, in seconds since the drill began."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended - self.began


class Spread(NamedTuple):
    """A distribution of ``number`` values, by nearest rank."""

    number: int
    p50: float
    p99: float
    most: float


class MissingCanaries(NamedTuple):
    """Acknowledged canaries that a region does not have: how many blocks, and which (the first of them)."""

    blocks: int
    amount: float
    numbers: list[int]


def longest_gap(canaries: Iterable[Canary], began: float, ended: float) -> WriteOutage:
    """The longest time without an acknowledged write that overlaps this span."""
    acks = sorted(canary.acked_at for canary in canaries)
    # A gap may have begun before the span or end behind it: it counts whole. Where there is no such write, it is
    # known for the span only.
    edges = [
        max([at for at in acks if at <= began], default=began),
        *(at for at in acks if began < at <= ended),
        min([at for at in acks if at > ended], default=ended),
    ]
    gaps = [WriteOutage(before, after) for before, after in itertools.pairwise(edges)]
    return max(gaps, key=lambda gap: gap.seconds, default=WriteOutage(began, began))


def is_interruption(gap: WriteOutage, rate: float) -> bool:
    """Whether writers were held up, rather than that nobody happened to write."""
    return gap.seconds > max(PAUSES / rate, PAUSE_SECONDS)


def first_write(canaries: Iterable[Canary], after: float, region: str | None = None) -> Canary | None:
    """The first write that was acknowledged after a moment, by this region if one is named."""
    fit = (c for c in canaries if c.acked_at >= after and (region is None or c.region == region))
    return min(fit, key=lambda canary: canary.acked_at, default=None)


def missing(canaries: Sequence[Canary], there: Collection[int], amount: float, listed: int = 100) -> MissingCanaries:
    """What a region that holds the canaries ``there`` does not have of what was acknowledged."""
    lost = [canary.number for canary in canaries if canary.number not in there]
    return MissingCanaries(len(lost), len(lost) * amount, lost[:listed])


def spread(values: Iterable[float]) -> Spread | None:
    """Median, 99th percentile and maximum by nearest rank; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Spread(len(ordered), _rank(ordered, 0.5), _rank(ordered, 0.99), ordered[-1])


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
