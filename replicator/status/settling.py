"""What the settle buffer says of itself, in the terms of the snapshot. Pure.

Guarantee: seconds instead of microseconds, and nothing invented: a clock that the feed has not told yet is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from replicator.status.model import GapView, SettleView
from settle_buffer.status import GapStatus, Status
from settle_buffer.window import EDGES_US

_JOINED = 4  # neighbouring buckets of the settle buffer in one of ours: edges at 1 ms, 2 ms, 4 ms …


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
