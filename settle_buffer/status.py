"""What the buffer holds and waits for, as plain values for a status page or metrics."""

from __future__ import annotations

import dataclasses


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
    """One strand: ``released`` is out, up to ``top`` entries were seen; ``stopped`` says why, empty if it runs."""

    strand: str
    released: int
    released_at: int
    top: int
    duplicates: int
    late: int
    conflicts: int
    stopped: str


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """The whole buffer. ``held`` waits in all, ``resident`` of it in memory; ``pressure`` names the bound reached."""

    held_entries: int
    held_bytes: int
    resident_entries: int
    resident_bytes: int
    oldest_age_us: int
    pressure: str
    strands: list[StrandStatus]
    gaps: list[GapStatus]
