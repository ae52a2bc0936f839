"""A replica under watch: checkpoints and scrubs, what they found, and how far equality is proven.

Guarantee: the verified position outlives the sidecar (a note in the journal, written at most every few seconds), and is
taken up again only if it is on the journal's chain and the replica still stands there or behind it. What was found to
differ outlives it, too (a file, written when it is found), until it was looked at again and is right. A watch that
cannot work says why; replication goes on without it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Callable

import trio

from replicator.errors import ReplicatorError, Unavailable
from replicator.format.position import parse_position
from replicator.pipeline.replicas.base import Reader
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal
from replicator.supervise import Backoff, supervise
from replicator.transport.endpoint import Endpoint
from replicator.verify.checkpoints import Cadence, Checkpoints
from replicator.verify.divergence_file import DivergenceFile
from replicator.verify.evidence import Witness
from replicator.verify.findings import DivergenceFindings, DivergentKey
from replicator.verify.scrub import Scrub, ScrubPlan
from replicator.verify.side import LocalSide
from replicator.verify.view import DivergentKeyView, VerifyView

VERIFIED_NOTE = "verified:"
NOTE_SECONDS = 5.0
SHOWN_KEYS = 20
DRIFT_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class WatchPlan:
    """How often the watch makes checkpoints and scrubs; None: not at all."""

    cadence: Cadence | None
    scrub: ScrubPlan | None


class ReplicaWatch:
    """Watches one replica. ``on_verified`` hears of the sequence up to which it is proven."""

    def __init__(
        self,
        here: LocalSide,
        primary: Callable[[], Endpoint],
        journal: Journal,
        open_reader: Callable[[], Reader],
        journal_head: JournalHead,
        applied: JournalHead,
        witness: Witness,
        plan: WatchPlan,
        divergence: DivergenceFile,
        on_verified: Callable[[int], None],
        backoff: Callable[[], Backoff],
    ) -> None:
        self._journal = journal
        self._strand = applied.position.strand
        self._journal_head = journal_head
        self._applied = applied
        self._on_verified = on_verified
        self._backoff = backoff
        self._noted_at = 0.0
        self._drift_asked_at = -math.inf
        self._proven_at = trio.current_time()
        self._checkpoints_done = 0
        self._troubles: dict[str, ReplicatorError] = {}
        self._findings = findings = DivergenceFindings(0)
        # At once, not when the watch begins: in between nobody may take the region for one that is equal.
        self._divergence = divergence
        findings.remember(*divergence.read())
        self._checkpoints = self._scrub = None
        if plan.cadence is not None:
            self._checkpoints = Checkpoints(
                here.name,
                journal,
                self._strand,
                open_reader,
                applied,
                witness,
                plan.cadence,
                findings,
                self._note_checkpoint,
            )
        if plan.scrub is not None:
            self._scrub = Scrub(primary, here, plan.scrub, findings, self._is_behind, self._note_scrub)

    def opened(self, sequence: int) -> None:
        """The replica was opened and stands here: maybe behind where it stood."""
        self._findings.set_back(sequence)

    def ask_for_scrub(self) -> None:
        """Somebody who compared has seen a difference: look soon, and say so where alerts look."""
        self._findings.ask_for_scrub()

    def ask_after_drift(self) -> None:
        """Replay has met what somebody else wrote, or removed: look soon, but not all the time for who goes on."""
        if trio.current_time() >= self._drift_asked_at + DRIFT_SECONDS:
            self._drift_asked_at = trio.current_time()
            self._findings.ask_for_scrub()

    def prove(self) -> None:
        """Compare what was applied last at once: somebody waits for it to be proven."""
        if self._checkpoints is not None:
            self._checkpoints.hurry()

    async def run(self) -> None:
        """Watch, for ever."""
        await self._applied.beyond(0)
        noted = await trio.to_thread.run_sync(self._read_verified_note)
        base = self._journal.base(self._strand).sequence
        # Nothing was proven of what a replica that began as a copy had then; one that was put back since stands behind
        # what was proven of it.
        self._findings.begin_at(min(noted or base, self._applied.position.sequence), is_proven=bool(noted) or base == 0)
        self._on_verified(self._findings.verified)
        async with trio.open_nursery() as nursery:
            if self._checkpoints is not None:
                nursery.start_soon(self._supervised, "checkpoints", self._checkpoints.run)
            if self._scrub is not None:
                nursery.start_soon(self._supervised, "scrub", self._scrub.run)

    async def _supervised(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        await supervise(name, run, _WatchTrouble(name, self._troubles), self._backoff())

    def _read_verified_note(self) -> int:
        """The verified sequence of an earlier life, if it is on this chain; 0 without one."""
        text = self._journal.notes().get(VERIFIED_NOTE + self._strand)
        if text is None:
            return 0
        position = parse_position(text)
        return position.sequence if self._journal.position_at(self._strand, position.sequence) == position else 0

    def _write_verified_note(self, sequence: int) -> None:
        position = self._journal.position_at(self._strand, sequence)
        if position is not None:
            self._journal.set_note(VERIFIED_NOTE + self._strand, str(position))

    async def _note_checkpoint(self, began: float) -> None:
        self._checkpoints_done += 1
        self._troubles.pop("checkpoints", None)
        if self._findings.is_clean:
            self._proven_at = began  # what the look has seen is as old as its beginning
        await self._note_verified()

    async def _note_scrub(self) -> None:
        self._troubles.pop("scrub", None)
        await self._note_verified()

    async def _note_verified(self) -> None:
        verified, findings = self._findings.verified, self._findings
        await trio.to_thread.run_sync(self._divergence.keep, list(findings.wrong.values()), dict(findings.unlisted))
        self._on_verified(verified)
        if trio.current_time() >= self._noted_at + NOTE_SECONDS:
            self._noted_at = trio.current_time()
            await trio.to_thread.run_sync(self._write_verified_note, verified)

    def _is_behind(self) -> bool:
        return self._applied.position.sequence < self._journal_head.position.sequence

    def view(self) -> VerifyView:
        """What is known, for status and metrics."""
        findings, now = self._findings, trio.current_time()
        report = self._scrub.report if self._scrub is not None else None
        return VerifyView(
            verified=findings.verified,
            age_seconds=0.0 if findings.verified >= self._applied.position.sequence else now - self._proven_at,
            compared_at=findings.compared_at,
            checkpoints=self._checkpoints_done,
            mismatches=findings.mismatches,
            divergent_keys=findings.divergent_keys(),
            wrong=tuple(map(_key_view, list(findings.wrong.values())[:SHOWN_KEYS])),
            scrubs=report.passes if report else 0,
            scrub_sequence=findings.scrubbed,
            scrub_age_seconds=now - report.ended_at if report and report.ended_at is not None else None,
            scrub_rows=report.rows if report else 0,
            scrub_seconds=report.seconds if report else 0.0,
            scrub_table=report.running_table if report else "",
            trouble="; ".join(f"{name}: {error}" for name, error in self._troubles.items())
            or (report.trouble if report else ""),
        )


class _WatchTrouble:
    """Where the supervisor says why a part of the watch does not work."""

    def __init__(self, name: str, troubles: dict[str, ReplicatorError]) -> None:
        self._name = name
        self._troubles = troubles

    def wait(self, cause: Unavailable) -> None:
        self._troubles[self._name] = cause

    def halt(self, cause: ReplicatorError) -> None:
        self._troubles[self._name] = cause


def _key_view(wrong: DivergentKey) -> DivergentKeyView:
    diagnosis = wrong.diagnosis
    return DivergentKeyView(
        table=wrong.table,
        key=wrong.key,
        found_at=wrong.found_at,
        first_block=diagnosis.first.sequence if diagnosis and diagnosis.first else None,
        last_block=diagnosis.last.sequence if diagnosis and diagnosis.last else None,
        odd=diagnosis.odd if diagnosis else (),
        cause=diagnosis.cause if diagnosis else "",
    )
