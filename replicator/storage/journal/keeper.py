"""Keeping the journal as small as its policy allows: looks, decides (``retention``), prunes (``pruning``).

Guarantee: what is told to status and metrics is what the last look saw. Pruning past what a known region needs is an
error in the log, each time a region is hit, and stays visible until the region is made anew or forgotten. It works in
short steps and rests as long after each as the step took, so that appends wait for a step at most, not for the work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import trio

from replicator.errors import ReplicatorError
from replicator.storage.journal.pruning import JournalExtent, remove_pages, sweep_parts
from replicator.storage.journal.regions import KnownRegions
from replicator.storage.journal.retention import (
    OWN,
    REGION,
    PageFacts,
    PruneChoice,
    RetentionHold,
    RetentionPolicy,
    choose,
)
from replicator.storage.journal.store import Journal

LOOK_SECONDS = 1.0

log = logging.getLogger("replicator")

T = TypeVar("T")


class RetentionReport(NamedTuple):
    """What the journal held at the last look, and why it is no smaller. Times are µs since 1970. Status shows every
    field; the order is that of its JSON."""

    bytes: int
    begins_behind: int  # the sequence before the first one that is kept
    first_sequence: int | None = None
    oldest_at: int | None = None
    held_by: RetentionHold | None = None  # who keeps what should go by the policy
    lost: tuple[str, ...] = ()  # known regions whose next block is gone
    pruned_blocks: int = 0  # since the start
    forced_blocks: int = 0  # of these, past what a known region needed
    trouble: str = ""  # why it could not be pruned


class JournalKeeper:
    """Looks after one strand of a journal."""

    def __init__(self, journal: Journal, strand: str, policy: RetentionPolicy, regions: KnownRegions) -> None:
        self._journal = journal
        self._strand = strand
        self._policy = policy
        self._regions = regions
        self._own_needs: dict[str, Callable[[], int]] = {}
        self._extent = JournalExtent(journal, strand)
        self._reported_lost: frozenset[str] = frozenset()
        self._pruned = self._forced = 0
        self.report: RetentionReport | None = None

    def needs(self, who: str, sequence: Callable[[], int]) -> None:
        """A part of this region reads the journal, and needs what is behind ``sequence()``, which may block."""
        self._own_needs[who] = sequence

    async def run(self) -> None:
        """Look and prune, for ever. A disk that is full or a file that cannot be read is told and tried again."""
        trouble = ""
        while True:
            try:
                await self._see_through(self._regions.save)
                while await self._timed(self.step):
                    pass
                trouble = ""
            except ReplicatorError as error:
                if trouble != str(error):
                    trouble = str(error)
                    log.error("the journal cannot be pruned: %s", error)
                if self.report is not None:
                    self.report = self.report._replace(trouble=trouble)
            await trio.sleep(LOOK_SECONDS)

    async def _timed(self, step: Callable[[], bool]) -> bool:
        began = trio.current_time()
        more = await self._see_through(step)
        await trio.sleep(trio.current_time() - began if more else 0)  # half of the time is the appends'
        return more

    async def _see_through(self, work: Callable[[], T]) -> T:
        """A step that has begun is seen through, also when the sidecar stops: the journal is closed behind it."""
        return await trio.to_thread.run_sync(work)  # by itself it is not abandoned

    def step(self) -> bool:
        """One look and one short step of work; whether there is more to do. Blocks."""
        self._extent.look()
        oldest = self._extent.oldest()
        now_us = time.time_ns() // 1000
        choice = choose(self._policy, self._extent.bytes, oldest, (), now_us)
        if choice.pages:  # something should go: only then everybody is asked
            own = [RetentionHold(who, sequence(), OWN) for who, sequence in self._own_needs.items()]
            with self._regions.standing():  # asked and pruned in one: a region that becomes known now is kept for
                choice = choose(self._policy, self._extent.bytes, oldest, [*self._region_holds(), *own], now_us)
                if choice.pages:
                    self._prune(choice, oldest)
        is_sweeping = not choice.pages and sweep_parts(self._journal, self._strand)
        self._report(choice.held_by)
        return bool(choice.pages) or is_sweeping

    def _prune(self, choice: PruneChoice, oldest: Sequence[PageFacts]) -> None:
        before = self._journal.base(self._strand).sequence
        base = remove_pages(self._journal, self._strand, choice.until).sequence
        self._extent.bytes -= sum(page.bytes for page in oldest if page.last <= base)
        self._pruned += base - before
        # What had gone before was counted then; of what went now, what some region had yet to fetch was forced.
        needed = min((region.sequence for region in self._regions.all() if region.forgotten is None), default=base)
        self._forced += max(base - max(needed, before), 0)

    def _region_holds(self) -> list[RetentionHold]:
        """The known regions' needs. One whose next block has gone already keeps nothing."""
        base = self._journal.base(self._strand).sequence
        return [
            RetentionHold(region.name, region.sequence, REGION)
            for region in self._regions.all()
            if region.state(base) == "known"
        ]

    def _report(self, held_by: RetentionHold | None) -> None:
        self._extent.look()
        base = self._journal.base(self._strand).sequence
        lost = frozenset(region.name for region in self._regions.all() if region.state(base) == "lost")
        for name in sorted(lost - self._reported_lost):
            log.error(
                "strand %s: the journal was pruned past what region %s needs, up to sequence %d: its budget is used up."
                " That region has to be made anew (replicator bootstrap CONFIG --replace), or forgotten"
                " (replicator regions forget CONFIG REGION --reason TEXT)",
                self._strand,
                name,
                base,
            )
        self._reported_lost = lost
        self.report = RetentionReport(
            self._extent.bytes,
            base,
            self._extent.first_sequence,
            self._extent.oldest_at,
            held_by,
            tuple(sorted(lost)),
            self._pruned,
            self._forced,
        )
