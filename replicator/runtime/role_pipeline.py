"""What both roles have of the flow: a region's ledger is read, compared and copied in every role.

Guarantee: a pipeline is built for one role and thrown away with it; building it opens nothing. ``run`` runs its stages
until it is cancelled, and each stage sees a step through that has begun; ``close`` lets go of what is open then.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import ClassVar

import trio
from starlette.routing import BaseRoute, Route

from replicator.cluster.failover.complaints import Complaints
from replicator.config import Config
from replicator.errors import ReplicatorError
from replicator.format.position import Position
from replicator.ledger.api import routes as api_routes
from replicator.ledger.ledger import Ledger
from replicator.ledger.outcomes import Outcomes
from replicator.ledger.reads import Reads
from replicator.pipeline.copies.serve import Copies
from replicator.pipeline.copies.snapshot_reader import CopyReader
from replicator.pipeline.feed.gaps import routes as gap_routes
from replicator.pipeline.replay.quarantine_routes import routes as quarantine_routes
from replicator.pipeline.replicas.base import AppliedMark, SetSequence
from replicator.pipeline.replicas.moments import Moments
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.status.marks import StageCondition, StageName
from replicator.status.progress import StrandProgress
from replicator.status.readiness import stuck_text
from replicator.status.stage_board import UPSTREAM_REASON, StageBoard, StageTrouble, now
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.indexer import HistoryIndexer
from replicator.supervise import supervise
from replicator.verify.derived import DerivedPaths
from replicator.verify.evidence import JournalWitness
from replicator.verify.moment_sessions import MomentSessions
from replicator.verify.own_files import OwnFiles
from replicator.verify.repair.serve import routes as repair_routes
from replicator.verify.serve import routes as verify_routes

FOR_REPLICAS: Sequence[BaseRoute] = [*quarantine_routes(None), *repair_routes(None)]  # a primary says that it is none
NO_GAPS: Sequence[BaseRoute] = gap_routes(None)
COMPLAIN_SECONDS = 1.0

log = logging.getLogger("replicator")


class RolePipeline:
    """A role's part of the flow, for ``config``: the region's configuration in this role."""

    stage_names: ClassVar[Sequence[StageName]] = ()

    def __init__(self, context: RegionContext, config: Config) -> None:
        self.context = context
        self.config = config
        self.strand = context.strand
        # Until the replica is opened nothing is known to be applied: readers wait rather than read too little.
        self.applied = JournalHead(context.journal.base(context.strand))
        self.board = StageBoard(StrandProgress(context.strand, self.stage_names, now()))
        # What is in the journal is settled, whoever wrote it: a role does not begin by showing a lag that is none.
        head = context.journal_head.position
        if head.sequence:
            self.board.progress.advance("settled", head.sequence, context.journal_head.committed_at, now())
        context.status.begin(config, self.board)
        definitions = lambda: context.journal.definitions(context.strand)  # noqa: E731
        self._open_reader = wiring.reader(config, definitions, damage=context.damage)
        self.reads: Reads | None = None
        self.outcomes: Outcomes | None = None
        self.stages: list[Callable[[], Awaitable[None]]] = []
        self.routes: list[BaseRoute] = []

    async def run(self) -> None:
        """Run every stage, until cancelled."""
        self._own_needs()  # first of all: the keeper is running, and what it has pruned is gone
        async with trio.open_nursery() as nursery:
            for stage in [*self.stages, *self._beside_the_flow(), self._complain]:
                nursery.start_soon(stage)

    def close(self) -> None:
        """Let go of what readers hold open."""
        if self.reads is not None:
            self.reads.close()
        if self.outcomes is not None:
            self.outcomes.close()

    def halt(self, cause: ReplicatorError) -> None:
        """Show every stage as halted."""
        for name in self.stage_names:
            StageTrouble(self.board.progress, name).halt(cause)

    # -- what both serve

    def _copies(
        self,
        moments: Moments,
        sequences: Callable[[CopyReader], list[SetSequence]] = lambda reader: reader.sequences(),
    ) -> Copies:
        """Copies of this region, for others that are made anew."""
        return Copies(self.context.journal, self.strand, moments, self.config.copying.hold_seconds, sequences)

    def _verify_routes(self, moments: Moments, ask_for_scrub: Callable[[], None] = lambda: None) -> list[Route]:
        """Comparisons from outside; the moments that are held for them end with the pipeline."""
        self.moment_sessions = MomentSessions(self.config.region.name, moments, self._witness())
        return verify_routes(moments, self.moment_sessions, ask_for_scrub)

    def _witness(self) -> JournalWitness:
        history = self.context.history if self.config.replay.history else None
        return JournalWitness(self.context.journal, history, self.strand)

    def _api(self, ledger: Ledger | None, visible: JournalHead, *, is_captured: bool = False) -> list[Route]:
        """Reads everywhere, writes where there is a ledger; ``visible`` is how far readers see."""

        async def wait_applied(position: Position, seconds: float) -> bool:
            with trio.move_on_after(seconds):
                await visible.beyond(position.sequence - 1)
            return visible.position.sequence >= position.sequence

        history = self.context.history if self.config.replay.history else None
        known_until = lambda: self.context.status.ledger_word().heard  # noqa: E731
        self.reads = Reads(self.strand, self._open_reader, self.context.journal, history, wait_applied, known_until)
        requests = self.config.region.files.requests
        self.outcomes = Outcomes(self.strand, requests, self.context.journal, leads=ledger is not None)
        primary_url = self.context.status.primary_url
        return api_routes(ledger, self.reads, self.outcomes, primary_url, is_captured=is_captured)

    async def _supervised(
        self, name: str, run_once: Callable[[], Awaitable[None]], trouble: StageTrouble, *derived: Path | None
    ) -> None:
        """Run a stage that rests on the journal, and on these files that are made from it: it halts if one of them is
        found to be damaged, whoever finds it."""
        files = [self.context.journal.path, *(file for file in derived if file is not None)]

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.context.damage.halt, *files)
                await run_once()

        await supervise(name, run, trouble, self.context.backoff())

    # -- beside the flow

    async def _complain(self) -> None:
        """Say in the log when a stage stands still without a word of its own, ever more seldom, and its end."""
        complaints = Complaints("stage", log)
        while True:
            for stage in self.board.progress.view(now()).stages:
                if stage.condition is StageCondition.STUCK:
                    complaints.about(stage.name, stuck_text(stage))
                elif stage.trouble is not None and stage.trouble.reason == UPSTREAM_REASON:
                    complaints.about(stage.name, f"{stage.name} waits: {stage.trouble}")
                elif stage.trouble is None:  # what a stage waits for or is halted by is said by who runs it
                    complaints.over(stage.name)
            await trio.sleep(COMPLAIN_SECONDS)

    def _visible(self) -> JournalHead:
        """How far the past is indexed: as far as readers see."""
        return self.context.journal_head

    def _derived(self) -> DerivedPaths:
        """What the region derives from its journal and no other region compares: to be proven here."""
        return DerivedPaths(self.config.region.files.history if self.config.replay.history else None)

    def _own_files(self) -> OwnFiles:
        context, config = self.context, self.config
        return OwnFiles(
            context.journal,
            self.strand,
            context.history,
            self._derived(),
            config.region.files.proof,
            context.damage,
            config.verify.scrub_seconds,
            lambda: self._visible().position.sequence,
            wiring.derived_file(config),
            wiring.requests_kept_us(config),
        )

    def _beside_the_flow(self) -> list[Callable[[], Awaitable[None]]]:
        beside: list[Callable[[], Awaitable[None]]] = [self.moment_sessions.run, self.copies.run]
        if self.config.verify.scrubs:
            beside.append(self._own_files().run)
        if not self.config.replay.history:
            return beside
        context = self.context
        slowest = context.publisher.slowest  # the index is for questions about the past: it rests while others catch up
        indexer = HistoryIndexer(context.history, context.journal_head, self._visible(), slowest, context.backoff)
        return [*beside, indexer.run, indexer.sweep]

    def _own_needs(self) -> None:
        """Who of this region's own parts reads the journal, and may do so again after a loss of power."""
        for who, sequence in wiring.durable(self.config):
            self.context.keeper.needs(who, sequence)
        if self.config.replay.history:
            self.context.keeper.needs("its own index of the past", lambda: self.context.history.indexed(self.strand))

    # -- what stages report

    copies: Copies

    def _on_applied(self, applied: AppliedMark) -> None:
        self.applied.moved(applied.position, applied.committed_at)
        self.context.status.applied_blocks = applied.blocks
        self.board.applied(applied)
