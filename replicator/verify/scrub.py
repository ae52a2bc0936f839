"""The scrub: in the background, everything that a replica stores is compared with what its primary stores.

Guarantee: each table is compared at one exact position of both regions, read in their databases' own snapshots while
writes go on; so changes made by hand, lost writes and damage on disk are found, on either side, not only replay's
faults. A pass reads at most ``rows_per_second`` rows of each side, a tenth of it while the replica is behind. What
differs is narrowed to keys by the digests of buckets, and the journal is asked who is wrong.

A snapshot is open for some seconds, or as long as it takes to read a large table at that pace: long snapshots keep
PostgreSQL from cleaning up. What cannot be compared now is said and tried again with the next pass.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable

import trio

from replicator.errors import ReplicatorError
from replicator.supervise import first_cause
from replicator.transport.endpoint import Endpoint
from replicator.verify.check import Divergence, meet
from replicator.verify.compare import Difference, TableResult, compare_table
from replicator.verify.findings import DivergenceFindings, DivergentKey
from replicator.verify.remote import RemoteSide, remote_side
from replicator.verify.side import LocalSide, Pace

log = logging.getLogger("replicator")

LISTED = 1000  # keys of a table that a pass names
LOOK_SECONDS = 1.0
MOMENT_SECONDS = 10.0  # a moment that is older is not begun to be read
FIRST_SECONDS = 60.0  # after the start
LEAST_REST_SECONDS = 5.0
RETRY_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class ScrubPlan:
    """When and how fast to scrub. ``every_seconds``: from the end of a pass to the next one. ``rows_per_second``: how
    many rows of each side are read."""

    every_seconds: float
    rows_per_second: int


@dataclasses.dataclass(slots=True)
class ScrubReport:
    """The last whole pass, for status and metrics. ``ended_at``: trio's clock."""

    passes: int = 0
    running_table: str = ""
    ended_at: float | None = None
    seconds: float = 0.0
    rows: int = 0
    trouble: str = ""


class Scrub:
    """Passes over one replica, for ever. ``primary`` gives whom to compare with, or raises Unavailable; ``on_scrubbed``
    hears of the end of every pass."""

    def __init__(
        self,
        primary: Callable[[], Endpoint],
        here: LocalSide,
        plan: ScrubPlan,
        findings: DivergenceFindings,
        is_behind: Callable[[], bool],
        on_scrubbed: Callable[[], Awaitable[None]],
    ) -> None:
        self._primary = primary
        self._here = here
        self._plan = plan
        self._findings = findings
        self._on_scrubbed = on_scrubbed
        self._here.pace = Pace(plan.rows_per_second, is_behind)
        self.report = ScrubReport()
        self._logged = ""  # what was said of the last pass that did not come to its end

    async def run(self) -> None:
        """Pass after pass; earlier than planned if something waits for it."""
        rest = min(self._plan.every_seconds, FIRST_SECONDS)
        while True:
            await self._rest(rest)
            rest = self._plan.every_seconds if await self._try() else RETRY_SECONDS

    async def _rest(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await trio.sleep(LEAST_REST_SECONDS)  # whatever waits: a pass that fails at once must not be all there is
            while not self._findings.wants_scrub:  # noqa: ASYNC110  # plain facts, that set no event
                await trio.sleep(LOOK_SECONDS)

    async def _try(self) -> bool:
        """A pass; whether it came to its end."""
        came_to_end = True
        try:
            await self.scrub()
        except* ReplicatorError as group:  # what cannot be compared now is no reason to end the watch
            error = first_cause(group)
            came_to_end, self.report.trouble = False, str(error)
            if str(error) != self._logged:  # once, not at every try
                self._logged = str(error)
                log.log(logging.ERROR if isinstance(error, Divergence) else logging.WARNING, "scrub: %s", error)
        if came_to_end:
            self._logged = ""
        return came_to_end

    async def scrub(self) -> None:
        """One pass. Raises ReplicatorError if a table could not be compared."""
        report, began = self.report, trio.current_time()
        try:
            async with remote_side(self._primary(), self._plan.rows_per_second) as there:
                at, results = await self._compare_all(there)
        finally:
            report.running_table = ""
            await self._here.end()
        report.passes += 1
        report.ended_at = trio.current_time()
        report.seconds = report.ended_at - began
        report.rows = sum(result.replica_rows for result in results)
        # What is the matter with single tables is said, and stops neither this pass nor the next.
        report.trouble = "; ".join(f"table {r.table}: {r.problem}" for r in results if r.unread or r.of_primary)
        self._note_results(at, results)
        await self._on_scrubbed()

    async def _compare_all(self, there: RemoteSide) -> tuple[int, list[TableResult]]:
        """Every table's result, and the lowest sequence at which any was compared. Small tables share a moment: replay
        waits for as long as it takes to fix one."""
        here, results = self._here, list[TableResult]()
        at = (await meet(there, here)).sequence
        met_at = trio.current_time()
        for label in sorted(there.tables.keys() | here.tables.keys()):
            if trio.current_time() > met_at + MOMENT_SECONDS:
                await meet(there, here)
                met_at = trio.current_time()
            self.report.running_table = label
            results.append(await compare_table(there, here, label, LISTED))
        return at, results

    def _note_results(self, at: int, results: list[TableResult]) -> None:
        differences = [difference for result in results for difference in result.differences]
        divergent = [finding_of(difference, self._here.name, at) for difference in differences]
        more = {r.table: r.different - len(r.differences) for r in results if r.different > len(r.differences)}
        for result in results:
            if result.problem:
                if not (result.unread or result.of_primary):
                    # No row was compared: all count as wrong, and at least one, for it may be empty.
                    more[result.table] = max(1, result.primary_rows, result.replica_rows)
                log.error("scrub at sequence %d: table %s: %s", at, result.table, result.problem)
            elif result.different:
                first = result.differences[0]
                cause = first.diagnosis.cause if first.diagnosis else ""
                log.error(
                    "scrub at sequence %d: table %s: %d keys differ, first %s: %s",
                    *(at, result.table, result.different, first.key, cause),
                )
        self._findings.scrub(at, divergent, more, whole=not any(result.unread for result in results))


def finding_of(difference: Difference, replica: str, at: int) -> DivergentKey:
    """A difference as a finding of this replica. If the journal does not speak against the replica, only another scrub
    can say that it is over."""
    evidence, diagnosis = difference.evidence, difference.diagnosis
    is_ours = diagnosis is not None and replica in diagnosis.odd
    key = ", ".join(f"{name}={text}" for name, text in difference.key.items()) or "without a key"
    is_known = is_ours and evidence is not None and evidence.known
    right = evidence.right if evidence else None
    return DivergentKey(difference.table, difference.key_line, key, is_known, right, at, diagnosis)
