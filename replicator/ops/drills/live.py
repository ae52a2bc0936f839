"""A drill on a running deployment: READ FIRST of the live drills.

    look ─▶ fit for it? ─▶ canaries ─▶ steady ─▶ the event ─▶ undo ─▶ all well again ─▶ back ─▶ steady ─▶ compare

Guarantee: a deployment that is not well when the drill begins is left alone. Whatever ends the event (its time, the
stop rule, SIGINT or SIGTERM, an error), it is undone, then every region is waited for and the primary goes back
where it was. A second signal gives up waiting, never the undoing. Each region is watched all the time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from replicator.errors import ConfigError, ReplicatorError, Unavailable
from replicator.ops.drills import faults
from replicator.ops.drills.canary import Canaries
from replicator.ops.drills.canary_writers import CanaryWriter, canary_writer
from replicator.ops.drills.final_state import observe_final_regions
from replicator.ops.drills.regions import DeploymentRegions
from replicator.ops.drills.report.form import DrillReport, canary_report
from replicator.ops.drills.report.heading import DrillHeading
from replicator.ops.drills.report.live import DrillEvent, FinalRegion, report_of
from replicator.ops.drills.rules.measures import first_write
from replicator.ops.drills.rules.observations import RegionObservations
from replicator.ops.drills.rules.plan import DrillPlan, may_take_over, takes_over
from replicator.ops.drills.rules.safety import check_fit, not_well
from replicator.ops.drills.undo_log import DrillNote
from replicator.ops.drills.watch import DrillWatch
from replicator.supervise import first_cause
from replicator.transport.endpoint import Endpoint

CANARY_SECONDS = 10.0
REMOVE_SECONDS = 30.0

log = logging.getLogger("replicator.drills")


async def run_live(
    places: list[Endpoint], plan: DrillPlan, heading: DrillHeading, note: DrillNote, wall_us: int
) -> DrillReport:
    """Carry a plan out; the report. Raises ReplicatorError if it cannot begin; then nothing was done."""
    began = trio.current_time()
    async with DeploymentRegions(places, lambda: trio.current_time() - began) as regions:
        report: DrillReport | None = None
        try:
            report = await LiveDrill(regions, plan, heading, note, wall_us, lambda: trio.current_time() - began).run()
        except* ReplicatorError as group:
            raise first_cause(group) from group
    assert report is not None
    return report


class LiveDrill:
    """One drill. What it has measured so far is in its fields, so that the report has it whatever becomes of the rest.

    ``_first`` is the region that led before the event; ``_broken`` that the fault's commands may have done something;
    ``_left`` what could not be undone.
    """

    def __init__(
        self,
        regions: DeploymentRegions,
        plan: DrillPlan,
        heading: DrillHeading,
        note: DrillNote,
        wall_us: int,
        clock: Callable[[], float],
    ) -> None:
        self._regions, self._plan, self._heading, self._note, self._clock = regions, plan, heading, note, clock
        self.observations = RegionObservations(wall_us)
        self.watch = DrillWatch(regions, self.observations, plan.stop)
        self.events: list[DrillEvent] = []
        self.notes: list[str] = []
        self._first: str | None = None
        self._broken = False
        self._left: list[str] = []
        self._is_back = False

    async def run(self) -> DrillReport:
        """From the first look to the report."""
        async with trio.open_nursery() as watching:
            await self.watch.begin(watching)
            self._first = check_fit(self._plan, self._regions.places, self.observations.latest)
            writer = canary_writer(self._heading.id, self._plan.canary, self._regions)
            await self._prepare(writer)
            plan, first = self._plan.canary, self._first
            canaries = Canaries(self._heading.id, plan, self._regions, writer, first, self._clock)
            watching.start_soon(self.watch.signals)
            watching.start_soon(self.watch.guard, canaries)
            try:
                await self._with_canaries(canaries, writer)
            finally:
                with trio.CancelScope(shield=True):
                    await self._undo()  # also if this program is at fault; what is undone already is left alone
            final_regions: list[FinalRegion] = []
            with self.watch.end:
                final_regions = await observe_final_regions(
                    self._regions, self.observations, canaries, self._plan.steps.recover_seconds
                )
            report = self._report(canaries, final_regions)
            await self._remove(canaries)
            await writer.close()
            if not self._left and (self._is_back or not self.events):  # else the next drill does it
                await trio.to_thread.run_sync(self._note.clear)
            watching.cancel_scope.cancel()
        return report.model_copy(update={"notes": self.notes})

    # -- before

    async def _prepare(self, writer: CanaryWriter) -> None:
        assert self._first is not None
        try:
            await writer.prepare(self._first)
        except ReplicatorError as error:
            cure = error.cure
            if error.reason == "not_embedded":
                cure = "name the database of every region in the plan: [canary] dsn = { … }"
            raise ConfigError(error.reason, error.message, place=f"[canary] in {self._first}", cure=cure) from error

    # -- the drill

    async def _with_canaries(self, canaries: Canaries, writer: CanaryWriter) -> None:
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(canaries.run, stopping)
            try:
                with self.watch.event:
                    await self.watch.until(lambda: bool(canaries.acknowledged), CANARY_SECONDS)
                    if not canaries.acknowledged:
                        raise Unavailable("no_canary", f"no write was acknowledged within {CANARY_SECONDS:g} s")
                    await trio.sleep(self._plan.steps.steady_seconds)
                    assert self._first is not None
                    for name in may_take_over(self._plan, self._regions.places, self._first):
                        await writer.check(name)  # else writers would seem blocked there, long after it leads
                    await self._event(canaries)
            except ReplicatorError as error:
                self.watch.fail(str(error))
            with self.watch.back:
                await self._way_back(canaries)
                await trio.sleep(self._plan.steps.steady_seconds)
            self._close_event()
            stopping.set()

    def _begin_event(self, name: str) -> DrillEvent:
        self._close_event()
        event = DrillEvent(name, self._clock(), float("inf"), self.observations.leader)
        self.events.append(event)
        log.info("%s: %s", name, self._plan.title)
        return event

    def _close_event(self) -> None:
        if self.events and self.events[-1].until == float("inf"):
            self.events[-1].until = self._clock()

    async def _event(self, canaries: Canaries) -> None:
        plan = self._plan
        event = self._begin_event("event")
        await trio.to_thread.run_sync(self._note.write, self._to_undo())  # durable before anything is done
        if plan.kind == "switchover":
            await self._switch(event, plan.target[0], canaries)
        elif plan.fault is not None:
            await self._break(event, canaries)
        await trio.sleep(plan.duration_seconds)
        event.new = self.observations.leader

    async def _switch(self, event: DrillEvent, target: str, canaries: Canaries) -> None:
        """Order a switchover, and wait for the first write that the target acknowledges."""
        seconds = self._plan.steps.change_seconds
        assert event.old is not None
        await self._regions.order(
            event.old,
            verb="switchover",
            target=target,
            seconds=seconds,
            reason=f"drill {self._heading.id}",
        )
        await self._await_takeover(event, canaries, lambda leader: leader == target)

    async def _await_takeover(self, event: DrillEvent, canaries: Canaries, fits: Callable[[str], bool]) -> None:
        """Wait until a region that fits leads and has acknowledged a canary. Raises Unavailable."""

        def done() -> bool:
            leader = self.observations.leader
            if leader is None or not fits(leader):
                return False
            event.new = leader
            return first_write(canaries.acknowledged, event.at, leader) is not None

        seconds = self._plan.steps.change_seconds
        if not await self.watch.until(done, seconds):
            states = ", ".join(f"{name} is {region.state}" for name, region in self.observations.latest.items())
            raise Unavailable(
                "not_taken_over",
                f"no other region took over within {seconds:g} s: {states}",
                cure="see replicator status CONFIG of each region; [steps] change gives it more time",
            )

    async def _break(self, event: DrillEvent, canaries: Canaries) -> None:
        plan = self._plan
        assert plan.fault is not None
        self._broken = True  # from the first command on, however it ends
        await faults.inject(plan.fault)
        if plan.steps.failover == "ordered" and (target := takes_over(plan)) is not None:
            await self._regions.order(
                target,
                verb="failover",
                target=target,
                seconds=plan.steps.change_seconds,
                allow_data_loss=plan.steps.allow_data_loss,
                primary_is_fenced=plan.steps.primary_is_fenced,
                reason=f"drill {self._heading.id}",
            )
        if plan.expected == "failover":
            await self._await_takeover(event, canaries, lambda leader: leader != event.old)

    # -- the way back

    async def _way_back(self, canaries: Canaries) -> None:
        await self._undo()
        if self.events:
            if not await self.watch.until(self._all_well, self._plan.steps.recover_seconds):
                self.watch.fail(f"not all is well again: {self._trouble()}")
                return
            # Whom an event without a takeover has left in charge is known only when all is well again.
            self.events[0].new = self.events[0].new or self.observations.leader
            self._is_back = await self._back(canaries)

    def _to_undo(self) -> dict[str, object]:
        """What the next drill has to undo if this one is killed from now on."""
        fault = self._plan.fault
        leader = self._first if self._plan.back and self._plan.kind != "canary" else ""
        fields: dict[str, object] = {"drill": self._heading.id, "leader": leader, "canaries": self._plan.canary.table}
        if fault is not None:
            fields |= {"undo": [list(command) for command in fault.undo], "timeout_seconds": fault.timeout_seconds}
        return fields

    async def _undo(self) -> None:
        fault = self._plan.fault
        if not self._broken or fault is None:
            return
        self._broken = False
        self._left = await faults.undo(fault.undo, fault.timeout_seconds)
        if self._left:
            self.watch.fail(f"not undone, do it by hand: {'; '.join(self._left)}")

    async def _back(self, canaries: Canaries) -> bool:
        """Have the region lead again that led first; whether it does."""
        leader = self.observations.leader
        if not self._plan.back or leader is None or leader == self._first:
            return True
        assert self._first is not None
        # It follows again, and may yet have to look whether its ledger could be a primary's.
        latest, first = self.observations.latest, self._first
        await self.watch.until(lambda: not latest[first].blocked, self._plan.steps.recover_seconds)
        try:
            await self._switch(self._begin_event("back"), self._first, canaries)
        except ReplicatorError as error:
            self.watch.fail(f"the primary is not back in {self._first}: {error}")
            return False
        if not await self.watch.until(self._all_well, self._plan.steps.recover_seconds):
            self.watch.fail(f"not all is well after the way back: {self._trouble()}")
        return True

    def _all_well(self) -> bool:
        return not self._trouble()

    def _trouble(self) -> str:
        """What is not well; while canaries are written some blocks are under way."""
        return not_well(self.observations.latest, max(round(2 * self._plan.canary.rate), 10))

    # -- the end

    def _report(self, canaries: Canaries, final_regions: list[FinalRegion]) -> DrillReport:
        return report_of(
            self._heading,
            self._plan,
            self.observations,
            self.events,
            canaries.acknowledged,
            canary_report(canaries.begun, canaries.not_sent, canaries.acknowledged),
            final_regions,
            leader=self.observations.leader,
            ended=self._clock(),
            stopped=self.watch.stopped,
            failed=self.watch.failed,
            notes=self.notes,
        )

    async def _remove(self, canaries: Canaries) -> None:
        leader = self.observations.leader
        with trio.move_on_after(REMOVE_SECONDS):
            wrong = "nobody leads: canaries are left" if leader is None else await canaries.remove(leader)
            self.notes += [wrong] if wrong else []
