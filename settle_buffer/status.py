"""What the buffer holds and waits for, as plain values for a status page or metrics."""

from __future__ import annotations

import dataclasses

from settle_buffer.strand import Strand


@dataclasses.dataclass(frozen=True, slots=True)
class GapStatus:
    """An open gap: what of ``first`` to ``last`` is missing, in sequences and for how long."""

    strand: str
    first: int
    last: int
    missing: int
    age_us: int
    requests: int
    expired: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StrandStatus:
    """One strand: ``released`` is out (in time order: an event time), up to ``top`` sequences are known of; ``stopped``
    says why it stopped, empty if it runs; ``idle``: the others do not wait for it."""

    strand: str
    released: int
    top: int
    duplicates: int
    late: int
    conflicts: int
    stopped: str
    idle: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """The whole buffer. ``held`` waits in all, ``resident`` of it in memory; ``pressure`` names the bound reached.
    ``lateness`` counts entries by how late they came, up to each of ``settle_buffer.window.EDGES_US`` and above all;
    ``lateness_us`` is the sum of it."""

    held_entries: int
    held_bytes: int
    resident_entries: int
    resident_bytes: int
    oldest_age_us: int
    pressure: str
    strands: list[StrandStatus]
    gaps: list[GapStatus]
    window_us: int
    window_reason: str
    clock_offset_us: int | None
    clock_error_us: int
    lateness: list[int]
    lateness_us: int


def gap_statuses(strand: Strand, now: int) -> list[GapStatus]:
    """The open gaps of a strand, in order."""
    return [
        GapStatus(
            strand.name,
            gap.first,
            gap.last,
            gap.missing.count(),
            max(0, now - gap.opened_at),
            gap.requests,
            gap.expired,
        )
        for gap in strand.gaps
    ]


def strand_status(strand: Strand, released: int, idle: bool) -> StrandStatus:
    """A strand, as far as it was ``released`` to the consumer."""
    counts = (strand.duplicates, strand.late, strand.conflicts)
    return StrandStatus(strand.name, released, strand.top, *counts, strand.stopped, idle)
