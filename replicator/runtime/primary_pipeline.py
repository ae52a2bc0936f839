"""The primary's part of the flow.

captured     another program's ledger ─▶ source ─▶ Capture ─▶ journal
embedded     HTTP ─▶ Ledger ─▶ journal, and the ledger's own state behind it
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from replicator.cluster.failover.at_risk import AtRisk
from replicator.cluster.failover.rows_before import RowsBefore
from replicator.config import Config, EmbeddedSourceSettings
from replicator.errors import Unavailable
from replicator.format.block import Block
from replicator.ledger.ledger import Ledger
from replicator.ledger.moments import LedgerMoments
from replicator.pipeline.acknowledge import Acknowledgement
from replicator.pipeline.capture import Capture
from replicator.pipeline.sources.base import Captured, CapturedLedger, SourceReport
from replicator.pipeline.sources.serve import routes as recopy_routes
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.runtime.role_pipeline import FOR_REPLICAS, NO_GAPS, RolePipeline
from replicator.storage.journal.head import JournalHead
from replicator.verify.derived import DerivedPaths

log = logging.getLogger("replicator")

ROOM_NOTE, ROOM_SECONDS = "ledger.room", 1.0


class PrimaryPipeline(RolePipeline):
    """What both kinds of primary have: others' reports count here."""

    acknowledgement: Acknowledgement | None = None

    @property
    def accepts_writes(self) -> bool:
        """Whether writers get through. Those of a captured database do not come this way, and need no sidecar."""
        return True

    def stop_acknowledging(self, why: str) -> None:
        """Answer writers who wait for other regions that the outcome is unknown, from now on."""
        if self.acknowledgement is not None:
            self.acknowledgement.stop(why)

    def _acknowledging(self) -> Acknowledgement | None:
        """Who makes writers wait for other regions, if they do; and what would be lost with this region is followed."""
        context, config = self.context, self.config
        others = None if config.cluster is None else frozenset(config.cluster.regions) - {config.region.name}
        rule, at_risk = wiring.acknowledge_rule(config, others), self._at_risk(others)
        acknowledgement = None if rule is None else Acknowledgement(rule, context.journal_head.position.sequence)

        # Both count by themselves: what is at risk is shown also where no writer waits for other regions.
        def reported(strand: str, region: str, sequence: int) -> None:
            at_risk.reported(region, sequence)
            if acknowledgement is not None:
                acknowledgement.reported(region, sequence)

        if acknowledgement is not None:
            acknowledgement.on_change = lambda change: context.status.event(f"acknowledgement {change}")
        context.publisher.on_report = reported
        context.publisher.wants_reports = lambda: acknowledgement is not None or bool(config.failover.amounts)
        context.status.acknowledgement = self.acknowledgement = acknowledgement
        self.stages += [part.run for part in (acknowledgement, at_risk) if part is not None]
        return acknowledgement

    def _at_risk(self, others: frozenset[str] | None) -> AtRisk:
        """What would be lost with this primary."""
        context = self.context
        rows = RowsBefore(context.history, self.strand) if self.config.replay.history else None
        # Without what regions reported before a restart, the whole journal would be at risk until they report again.
        known = {region.name: region.sequence for region in context.regions.all() if region.forgotten is None}
        rules = wiring.amount_rules(self.config)
        context.status.at_risk = at_risk = AtRisk(context.journal, context.journal_head, rules, rows, others, known)
        return at_risk


class CapturedPrimaryPipeline(PrimaryPipeline):
    """A ledger that another program keeps, and that a source reads."""

    stage_names = ("source",)

    def __init__(
        self,
        context: RegionContext,
        config: Config,
        ledger: CapturedLedger,
        show_copy: Callable[[SourceReport], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(context, config)
        acknowledgement = self._acknowledging()
        journal, journal_head = context.journal, context.journal_head
        self.source = source = context.status.source = ledger.source
        self.capture = Capture(source, journal, journal_head, config.region.epoch, self._captured, acknowledgement)
        context.status.complete_at = self.capture.complete_at
        captured = Captured(journal, journal_head, self.capture.stored_so_far)
        self.copies = self._copies(ledger.moments(captured, locking=True), lambda reader: ledger.sequences())
        verifying = self._verify_routes(ledger.moments(captured, locking=False))
        api = self._api(None, journal_head, is_captured=True)
        recopying = recopy_routes(self._recopy)
        self.routes = [*verifying, *FOR_REPLICAS, *NO_GAPS, *recopying, *self.copies.routes(), *api]
        self._ledger = ledger
        self._capturing = trio.CancelScope()
        self.stages.append(self._capture)
        if show_copy is not None:
            self.stages.append(lambda: show_copy(source.report))

    async def _capture(self) -> None:
        """Run the source; anew, from what is durable, whenever that is asked for."""
        while True:
            with trio.CancelScope() as self._capturing:
                await self._supervised("source", self.capture.run_once, self.board.source)
            self.board.progress.resume("source")

    async def _recopy(self, tables: Sequence[str], who: str) -> list[str]:
        named = await trio.to_thread.run_sync(self._ledger.ask_for_copies, self.context.journal, tables)
        log.warning("tables are copied anew, asked for by %s: %s", who, ", ".join(named))
        self._capturing.cancel()
        return named

    def _captured(self, blocks: Sequence[Block]) -> None:
        self.board.captured(blocks[-1].header)


class EmbeddedPrimaryPipeline(PrimaryPipeline):
    """The embedded ledger, which writes the journal itself."""

    stage_names = ("apply",)

    def __init__(self, context: RegionContext, config: Config) -> None:
        super().__init__(context, config)
        settings = config.source
        assert isinstance(settings, EmbeddedSourceSettings)
        self.ledger = ledger = Ledger(
            context.journal,
            self.strand,
            config.region.epoch,
            wiring.ledger_options(config, settings, context.history, context.damage.found),
            on_applied=self._on_applied,
            on_committed=self._committed,
            on_waiting=self.board.apply.wait,  # it waits within one run, where ``supervise`` sees nothing of it
            permits=context.gate,
            acknowledges=self._acknowledging(),
        )
        context.status.ledger = ledger
        moments = LedgerMoments(self.strand, self._open_reader)
        self.copies = self._copies(moments)
        verifying, api = self._verify_routes(moments), self._api(ledger, self.applied)
        self.routes = [*verifying, *FOR_REPLICAS, *NO_GAPS, *recopy_routes(None), *self.copies.routes(), *api]
        self.stages.append(self._run_ledger)
        self.stages.append(self._look_for_room)

    def _derived(self) -> DerivedPaths:
        return super()._derived()._replace(tables=self.config.state_path, requests=self.config.region.files.requests)

    def _visible(self) -> JournalHead:
        return self.applied

    async def _run_ledger(self) -> None:
        settings, files = self.config.source, (self.config.state_path, self.config.region.files.requests)
        assert isinstance(settings, EmbeddedSourceSettings)
        declarations = wiring.declarations(settings)
        await self._supervised("apply", lambda: self.ledger.run(declarations), self.board.apply, *files)

    @property
    def accepts_writes(self) -> bool:
        """Whether the ledger has started."""
        return self.ledger.runs

    async def _look_for_room(self) -> None:
        """While writes are refused, try again and again whether the journal takes something."""
        # Balancers send no writes to a ledger that refuses them: the next one cannot be what finds that there is room.
        while True:
            await trio.sleep(ROOM_SECONDS)
            if self.ledger.runs and isinstance(self.board.progress.trouble("apply"), Unavailable):
                with contextlib.suppress(Unavailable):
                    await trio.to_thread.run_sync(self.context.journal.set_note, ROOM_NOTE, str(time.time_ns()))
                    self.board.progress.go_on("apply")

    def _committed(self, last: Block) -> None:
        self.context.journal_head.moved(last.position, last.header.committed_at)
        if self.acknowledgement is not None:
            self.acknowledgement.stored(last.header.sequence)
