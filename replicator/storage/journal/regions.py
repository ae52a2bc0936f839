"""The regions that follow this one, and up to where each has everything durably.

Guarantee: a region that once followed is known until an operator forgets it, also while it is away and across restarts;
what it needs is what lies behind the position that *it* reported. What was sent to it proves nothing. A region that
comes back further behind than it was (an old copy was restored) counts from there again. Known is durable before the
region is answered; progress is written down now and then, for losing some of it only keeps more.

Any thread may call; ``report``, ``forget`` and ``save`` block. Number of regions: bounded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
from typing import Literal

from replicator.errors import Rejected
from replicator.storage.journal.store import Journal

REGIONS_LIMIT = 1_000
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

log = logging.getLogger("replicator")


@dataclasses.dataclass(frozen=True, slots=True)
class KnownRegion:
    """A region. ``sequence``: it has everything up to there. ``reported_at``: µs since 1970, when it last said so.
    ``forgotten`` is why an operator gave it up; then nothing is kept for it."""

    name: str
    sequence: int
    reported_at: int
    forgotten: str | None = None

    def state(self, begins_behind: int) -> Literal["known", "lost", "forgotten"]:
        """How it stands to a journal that begins behind this sequence; lost: what it needs next was pruned."""
        if self.forgotten is not None:
            return "forgotten"
        return "lost" if self.sequence < begins_behind else "known"

    def reported_age_seconds(self, now_us: int) -> float:
        """How long ago it last said how far it is; 0 where the clock was set back since."""
        return max(now_us - self.reported_at, 0) / 1e6


class KnownRegions:
    """The known regions of one strand."""

    def __init__(self, journal: Journal, strand: str) -> None:
        self._journal = journal
        self._strand = strand
        self._lock = threading.Lock()
        self._unsaved: set[str] = set()
        with journal.reading() as db:
            rows = db.execute(
                "SELECT region, sequence, reported_at, forgotten FROM follower WHERE strand = ?", (strand,)
            ).fetchall()
        self._regions = {row[0]: KnownRegion(*row) for row in rows}

    def standing(self) -> contextlib.AbstractContextManager[object]:
        """Nobody becomes known or falls back within: what is decided by ``all`` still holds when it is done."""
        return self._lock

    def all(self) -> list[KnownRegion]:
        """Every region that was ever known, by name."""
        return [region for _, region in sorted(self._regions.copy().items())]

    def report(self, name: str, sequence: int, now_us: int) -> None:
        """A region says that it has everything up to ``sequence``, which is on this chain. One without a name that can
        be a region's is nobody to remember. Raises Rejected if there are too many."""
        if not NAME.fullmatch(name):
            return
        with self._lock:
            before = self._regions.get(name)
            if before is None and len(self._regions) >= REGIONS_LIMIT:
                cure = "give each region one name; forget those that are gone:"
                cure += " replicator regions forget CONFIG REGION --reason TEXT"
                raise Rejected("too_many_regions", f"{REGIONS_LIMIT} are known", status=429, place=name, cure=cure)
            self._regions[name] = KnownRegion(name, sequence, now_us)
            is_further = before is not None and before.forgotten is None and sequence >= before.sequence
            if not is_further:  # on disk before it is answered: what it needs must outlive this process
                self._save([name])
            elif before != self._regions[name]:
                self._unsaved.add(name)
        if before is not None and before.forgotten is None and sequence < before.sequence:
            log.warning(
                "region %s is back at sequence %d, it was at %d: an old copy of it, or two regions of one name",
                name,
                sequence,
                before.sequence,
            )

    def save(self) -> None:
        """Write down what was reported since the last time."""
        with self._lock:
            if self._unsaved:
                self._save(sorted(self._unsaved))
                self._unsaved.clear()

    def forget(self, name: str, why: str) -> KnownRegion:
        """Keep nothing for this region any more; durable on return. It is known again if it comes back."""
        with self._lock:
            region = self._regions.get(name)
            if region is None or region.forgotten is not None:
                message = f"no region {name[:64]!r} is known here"
                raise Rejected("unknown_region", message, status=404, place=f"strand {self._strand}")
            self._regions[name] = region = dataclasses.replace(region, forgotten=why)
            self._save([name])
            return region

    def _save(self, names: list[str]) -> None:
        rows = [(self._strand, *dataclasses.astuple(self._regions[name])) for name in names]
        with self._journal.changing() as db:
            db.executemany("INSERT OR REPLACE INTO follower VALUES (?, ?, ?, ?, ?)", rows)
