"""A rehearsal: a fork of a standby is promoted, measured, compared with the standby, and thrown away.

    copy │ decision ─▶ drain ─▶ verified ─▶ promote ─▶ first write ─▶ writes │ throw away

Guarantee: production is not touched (``fork``). The standby goes on following; it is watched, and a rehearsal that
makes it fall back stops itself. The fork is thrown away however the rehearsal ends, and by the next drill if it was
killed.

What a rehearsal does not measure: how long a loss takes to be seen, the lease, and the peers' promises. Its RTO runs
from the decision on; the copy is not part of it, because a real promotion makes none.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import trio

from replicator.config import Config, PostgresReplicaSettings, PostgresSourceSettings
from replicator.errors import ConfigError, ReplicatorError
from replicator.ops.drills.final_state import Comparison
from replicator.ops.drills.fork import ScratchFork
from replicator.ops.drills.fork_place import SUFFIX, ForkPlace, discard
from replicator.ops.drills.fork_writers import ForkWriter, PostgresFork
from replicator.ops.drills.regions import DeploymentRegions
from replicator.ops.drills.report.form import (
    ChangeReport,
    DrillReport,
    RegionReport,
    SpanReport,
    StepReport,
    canary_report,
)
from replicator.ops.drills.report.heading import DrillHeading
from replicator.ops.drills.report.verdict import equal_regions, outcome_of, target_reports
from replicator.ops.drills.rules.measures import Canary
from replicator.ops.drills.rules.observations import RegionObservations
from replicator.ops.drills.rules.plan import DrillPlan
from replicator.ops.drills.rules.safety import stop_reason
from replicator.ops.drills.undo_log import DrillNote
from replicator.supervise import first_cause
from replicator.transport.endpoint import Endpoint
from replicator.verify.compare import compare_sides
from replicator.verify.remote import remote_side

POLL_SECONDS = 0.1
FORK = "fork"

log = logging.getLogger("replicator.drills")


async def rehearse(
    configs: list[Config], places: list[Endpoint], plan: DrillPlan, heading: DrillHeading, note: DrillNote
) -> DrillReport:
    """Carry the plan out; the report. Raises ReplicatorError if it cannot begin."""
    began = trio.current_time()
    standby = next((place for place in places if place.name == plan.target[0]), None)
    if standby is None:
        names = ", ".join(place.name for place in places)
        cure = f"the regions are {names}"
        raise ConfigError(
            "unknown_region", f"there is no region {plan.target[0]}", place="the plan's target", cure=cure
        )
    async with DeploymentRegions([standby], lambda: trio.current_time() - began) as regions:
        status = await regions.ask(standby.name, "/v1/status")
        strand = str((status or {})["strands"][0]["strand"]) if status else "main"
        config = next((config for config in configs if config.region.name == standby.name), None)
        directory = note.path.parent / f"{heading.id}{SUFFIX}"
        where = ForkPlace(directory, heading.id, strand, server_of(plan, config), config)
        rehearsal = Rehearsal(regions, standby, plan, heading, note, where, lambda: trio.current_time() - began)
        return await rehearsal.run()


def server_of(plan: DrillPlan, config: Config | None) -> str | None:
    """The PostgreSQL server that a fork's database is made in; None for a fork in a file."""
    if plan.rehearsal.scratch is not None:
        return plan.rehearsal.scratch.reveal()
    ledger = None if config is None else config.replica or config.source
    return ledger.conninfo() if isinstance(ledger, PostgresReplicaSettings | PostgresSourceSettings) else None


class Rehearsal:
    """One rehearsal. What it has measured so far is in its fields, so that the report has it whatever comes.

    ``begun`` counts the writes to the fork, ``held`` the canaries that it has in the end; ``sequence`` is the standby's
    at the decision.
    """

    def __init__(
        self,
        regions: DeploymentRegions,
        standby: Endpoint,
        plan: DrillPlan,
        heading: DrillHeading,
        note: DrillNote,
        where: ForkPlace,
        clock: Callable[[], float],
    ) -> None:
        self._regions, self._standby, self._plan, self._heading = regions, standby, plan, heading
        self._note, self._where, self._clock = note, where, clock
        self._observations = RegionObservations(0)
        self._scope = trio.CancelScope()
        self.steps: list[StepReport] = []
        self.spans: list[SpanReport] = []
        self.canaries: list[Canary] = []
        self.held: int | None = None
        self.begun = 0
        self.comparison = Comparison("")
        self.sequence: int | None = None
        self.stopped = self.failed = ""
        self.notes: list[str] = []

    async def run(self) -> DrillReport:
        """From the copy to the report."""
        fork = ScratchFork(self._where, self._standby)
        async with trio.open_nursery() as watching:
            watching.start_soon(self._watch)
            watching.start_soon(self._signals)
            # What throwing the fork away takes is durable before any of it is made.
            await trio.to_thread.run_sync(self._note.write, {"drill": self._heading.id, "fork": self._where.note})
            try:
                with self._scope:
                    await self._carry_out(fork)
            except* ReplicatorError as group:
                self.failed = str(first_cause(group))
                log.error("the rehearsal failed: %s", self.failed)
            finally:
                with trio.CancelScope(shield=True):
                    await self._throw_away(fork)
            watching.cancel_scope.cancel()
        return self._report()

    async def _carry_out(self, fork: ScratchFork) -> None:
        with self._in("copying"):
            position = await fork.copy(self._plan.rehearsal.rows_per_second)
        log.info("the fork is a copy of %s at %s", self._standby.name, position)
        async with remote_side(self._standby) as there:
            await there.fix(None)
            self._step("decision", f"at block {there.position.sequence}")
            with self._in("draining"):
                drained = await fork.drain(there.position)
            self.sequence = there.position.sequence
            self._step("drain", f"{drained} blocks behind the copy")
            with self._in("verifying"):
                here = fork.side()
                try:
                    await here.fix(there.position.sequence)
                    tables = await compare_sides(there, here, 0)
                finally:
                    await here.end()
        outcome = "equal" if all(table.is_equal for table in tables) else "divergent"
        theirs = {table.table: table.primary_digest for table in tables}
        ours = {table.table: table.replica_digest for table in tables}
        self.comparison = Comparison(outcome, str(there.position), ours, theirs)
        self._step("verified", f"{len(tables)} tables are {outcome}")
        epoch = max(there.position.epoch, 1) + 1  # as a promotion would claim; no lease store hears of it
        with self._in("promoting"):
            await fork.promote(epoch)
            self._step("promote", f"in epoch {epoch}, which is the fork's alone")
        with self._in("primary"):
            await self._write(fork, epoch)

    async def _write(self, fork: ScratchFork, epoch: int) -> None:
        async with self._writing(fork, epoch) as writing:
            for number in range(1, self._plan.rehearsal.writes + 1):
                sent_at = self._clock()
                self.begun += 1
                await writing.write(number)
                self.canaries.append(Canary(number, sent_at, self._clock(), FORK))
                if number == 1:
                    self._step("first write", "")
            self.held = await writing.held()
        # Only a database has a slot; the embedded ledger writes to the journal itself.
        if isinstance(writing, PostgresFork):
            await fork.capture()
            blocks = fork.journal.head(self._where.strand).sequence - (self.sequence or 0)
            self.notes.append(f"{blocks:,} blocks came through the fork's own slot and publication into its journal")

    @contextlib.asynccontextmanager
    async def _writing(self, fork: ScratchFork, epoch: int) -> AsyncIterator[ForkWriter]:
        table = self._plan.canary.table
        if self._where.server is not None:
            postgres = fork.postgres(table)
            await postgres.open()
            try:
                yield postgres
            finally:
                with trio.CancelScope(shield=True):
                    await postgres.close()
            return
        embedded = fork.embedded(epoch, table)
        async with trio.open_nursery() as running:
            await running.start(embedded.run)
            yield embedded
            running.cancel_scope.cancel()

    # -- watching

    async def _watch(self) -> None:
        """Look at the standby all the time, and stop the rehearsal if that makes it suffer."""
        while True:
            observation = await self._regions.look(self._standby.name)
            self._observations.add(observation)
            reason = stop_reason(self._plan.stop, self._observations.latest, 0.0)
            if not observation.answers:
                reason = f"{self._standby.name} does not answer"
            if reason and not self.stopped:
                self._stop(reason)
            await trio.sleep(POLL_SECONDS)

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                self._stop(f"told to by {signal.Signals(number).name}")

    def _stop(self, reason: str) -> None:
        log.warning("the rehearsal stops: %s", reason)
        self.stopped = self.stopped or reason
        self._scope.cancel()

    async def _throw_away(self, fork: ScratchFork) -> None:
        with self._in("discarded"):
            await fork.close()
            try:
                servers = [] if self._where.server is None else [self._where.server]
                await trio.to_thread.run_sync(discard, self._where.note, servers)
            except ReplicatorError as error:
                self.failed = "; ".join(filter(None, (self.failed, f"the fork is still there: {error}")))
                return
            await trio.to_thread.run_sync(self._note.clear)

    # -- measuring

    def _step(self, name: str, why: str) -> None:
        self.steps.append(StepReport(step=name, at=self._clock(), region=FORK, why=why))
        log.info("%s %s", name, why)

    @contextlib.contextmanager
    def _in(self, state: str) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            self.spans.append(SpanReport(region=FORK, state=state, began_at=began, ended_at=self._clock()))

    def _report(self) -> DrillReport:
        ended = self._clock()
        decided = next((step.at for step in self.steps if step.step == "decision"), None)
        first = self.canaries[0].acked_at if self.canaries else None
        rto = None if decided is None or first is None else first - decided
        rpo = None if self.held is None else max(len(self.canaries) - self.held, 0)
        comparison = self.comparison
        targets = target_reports(self._plan.targets, rpo, None if rpo is None else {}, rto, None)
        targets.append(equal_regions([comparison.outcome] if comparison.outcome else []))
        changes = []
        if decided is not None:
            changes.append(ChangeReport(name="event", event_at=decided, rto_seconds=rto, steps=self.steps))
        name = self._standby.name
        watched = SpanReport(region=name, state="following", began_at=0.0, ended_at=ended)
        return DrillReport(
            **self._heading.fields(self._plan),
            way="rehearsal",
            seconds=ended,
            outcome=outcome_of(targets, self.stopped, self.failed),
            why=self.failed or self.stopped,
            rpo_blocks=rpo,
            rto_seconds=rto,
            targets=targets,
            changes=changes,
            spans=[watched, *self.spans],
            regions=[
                RegionReport(
                    region=name,
                    url=self._standby.url,
                    sequence=self.sequence,
                    position=comparison.position,
                    compared="reference" if comparison.outcome else "",
                    digests=comparison.reference,
                ),
                RegionReport(
                    region=FORK,
                    sequence=self.sequence,
                    position=comparison.position,
                    missing_blocks=rpo,
                    compared=comparison.outcome,
                    digests=comparison.digests,
                ),
            ],
            canaries=canary_report(self.begun, 0, self.canaries),
            notes=self.notes,
        )
