"""The settle buffer's status as metrics and people read it. Pure.

Guarantee: seconds instead of microseconds, and nothing invented: a clock that the feed has not told yet is not known.
The buffer stands alone and counts in microseconds of whatever clock its caller has; this is the one translation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from settle_buffer.status import GapStatus, Status
from settle_buffer.window import EDGES_US

_JOINED = 4  # neighbouring buckets of the settle buffer in one of ours: edges at 1 ms, 2 ms, 4 ms …


@dataclasses.dataclass(frozen=True, slots=True)
class GapView:
    """Missing sequences, ``first`` to ``last``; ``state`` is open, requested or expired."""

    first: int
    last: int
    state: str
    age_seconds: float
    missing: int | None = None  # of these sequences; None: all
    requests: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class SettleView:
    """What waits to settle in a strand, and what was seen on the way.

    ``pressure`` names the bound that is reached, empty if none is; ``spool_set_aside`` where a damaged spool was put.
    The feed's clock is ours plus ``clock_offset_seconds``. ``lateness`` counts entries by how late they came: the upper
    edge of each bucket in seconds (the last one infinite) and how many lie in it.
    """

    entries: int = 0
    bytes: int = 0
    oldest_age_seconds: float = 0.0
    gaps: tuple[GapView, ...] = ()
    gaps_opened: int = 0
    gaps_filled: int = 0
    gaps_waived: int = 0
    gap_requests: int = 0
    late: int = 0
    duplicates: int = 0
    conflicts: int = 0
    idle_strands: int = 0
    window_seconds: float = 0.0
    window_reason: str = ""
    clock_offset_seconds: float | None = None
    clock_error_seconds: float | None = None
    pressure: str = ""
    spool_set_aside: str = ""
    lateness: tuple[tuple[float, int], ...] = ()
    lateness_seconds: float = 0.0


class GapTotals(Protocol):
    """What became of gaps since the sidecar started."""

    opened: int
    requests: int
    filled: int
    waived: int


def settle_view(status: Status, counts: GapTotals, spool_set_aside: str = "") -> SettleView:
    """The settle buffer's status for metrics and people."""
    offset_us = status.clock_offset_us
    return SettleView(
        entries=status.held_entries,
        bytes=status.held_bytes,
        oldest_age_seconds=status.oldest_age_us / 1e6,
        gaps=tuple(map(_gap_view, status.gaps)),
        gaps_opened=counts.opened,
        gaps_filled=counts.filled,
        gaps_waived=counts.waived,
        gap_requests=counts.requests,
        late=sum(strand.late for strand in status.strands),
        duplicates=sum(strand.duplicates for strand in status.strands),
        conflicts=sum(strand.conflicts for strand in status.strands),
        idle_strands=sum(strand.idle for strand in status.strands),
        window_seconds=status.window_us / 1e6,
        window_reason=status.window_reason,
        clock_offset_seconds=None if offset_us is None else offset_us / 1e6,
        clock_error_seconds=None if offset_us is None else status.clock_error_us / 1e6,
        pressure=status.pressure,
        spool_set_aside=spool_set_aside,
        lateness=tuple(_joined(status.lateness)),
        lateness_seconds=status.lateness_us / 1e6,
    )


def _gap_view(gap: GapStatus) -> GapView:
    state = "expired" if gap.expired else "requested" if gap.requests else "open"
    return GapView(gap.first, gap.last, state, gap.age_us / 1e6, gap.missing, gap.requests)


def _joined(counts: Sequence[int]) -> Iterator[tuple[float, int]]:
    """Every fourth edge and what lies below it and above the one before; the last edge is infinite."""
    start = 0
    for end in range(0, len(EDGES_US), _JOINED):
        yield EDGES_US[end] / 1e6, sum(counts[start : end + 1])
        start = end + 1
    yield math.inf, sum(counts[start:])
