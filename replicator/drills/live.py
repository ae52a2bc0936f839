"""A drill on a running deployment: READ FIRST of the live half.

    look ─▶ fit for it? ─▶ canaries ─▶ steady ─▶ the event ─▶ undo ─▶ all well again ─▶ back ─▶ steady ─▶ compare

Guarantee: a deployment that is not well when the drill begins is left alone. Whatever ends the event (its time, the
stop rule, SIGINT or SIGTERM, an error), it is undone, then every region is waited for and the primary goes back
where it was. A second signal gives up waiting, never the undoing. Each region is watched all the time.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable

import trio

from replicator.drills import faults
from replicator.drills.canary import Canaries
from replicator.drills.ending import ends_of
from replicator.drills.measures import first_write
from replicator.drills.notes import Note
from replicator.drills.plan import Plan, takes_over
from replicator.drills.regions import Place, Regions
from replicator.drills.reporting import About, Event, RegionEnd, canaries_of, report_of
from replicator.drills.result import Report
from replicator.drills.sights import Sights
from replicator.drills.stopping import stops
from replicator.drills.writing import EmbeddedWriting, PostgresWriting, Writing
from replicator.errors import ConfigError, ReplicatorError, Unavailable
from replicator.supervise import first_cause

POLL_SECONDS = 0.05
GUARD_SECONDS = 0.1
LOOKS_SECONDS = 10.0
CANARY_SECONDS = 10.0

log = logging.getLogger("replicator.drills")


async def run_live(places: list[Place], plan: Plan, about: About, note: Note, wall_us: int) -> Report:
    """Carry a plan out; the report. Raises ReplicatorError if it cannot begin; then nothing was done."""
    began = trio.current_time()
    async with Regions(places, lambda: trio.current_time() - began) as regions:
        report: Report | None = None
        try:
            report = await Live(regions, plan, about, note, wall_us, lambda: trio.current_time() - began).run()
        except* ReplicatorError as group:
            raise first_cause(group) from group
    assert report is not None
    return report


class Live:
    """One drill. What it has found out is in its fields, so that it can be told whatever becomes of the rest."""

    def __init__(
        self, regions: Regions, plan: Plan, about: About, note: Note, wall_us: int, clock: Callable[[], float]
    ) -> None:
        self._regions, self._plan, self._about, self._note, self._clock = regions, plan, about, note, clock
        self.sights = Sights(wall_us)
        self.events: list[Event] = []
        self.stopped = ""
        self.failed = ""
        self.notes: list[str] = []
        self._event_scope = trio.CancelScope()
        self._back_scope, self._end_scope = trio.CancelScope(), trio.CancelScope()
        self._first: str | None = None
        self._broken = False

    async def run(self) -> Report:
        """From the first look to the report."""
        async with trio.open_nursery() as watching:
            for name in self._regions.places:
                watching.start_soon(self._watch, name)
            await self._until(self._all_looked_at, LOOKS_SECONDS)
            self._check_fit()
            self._first = self.sights.leader
            assert self._first is not None
            writing = self._writing()
            await self._prepare(writing)
            plan, first = self._plan.canary, self._first
            canaries = Canaries(self._about.id, plan, self._regions, writing, first, self._clock)
            watching.start_soon(self._signals)
            watching.start_soon(self._guard, canaries)
            try:
                await self._with_canaries(canaries)
            finally:
                with trio.CancelScope(shield=True):
                    await self._undo()  # also if this program is at fault
            ends: list[RegionEnd] = []
            with self._end_scope:
                ends = await ends_of(self._regions, self.sights, canaries, self._plan.steps.recover_seconds)
            report = self._report(canaries, ends)
            await self._remove(canaries, ends)
            await writing.close()
            watching.cancel_scope.cancel()
        return report.model_copy(update={"notes": self.notes})

    # -- before

    def _check_fit(self) -> None:
        """Raise if the deployment is not well, or not what the plan is for."""
        latest, plan = self.sights.latest, self._plan
        unknown = [name for name in (*plan.target, *([plan.other] if plan.other else [])) if name not in latest]
        if unknown:
            cure = f"the regions are {', '.join(latest)}"
            raise ConfigError(
                "unknown_region", f"there is no region {unknown[0]}", place="the plan's target", cure=cure
            )
        for name in self._regions.places:
            if name not in latest or not latest[name].answers:
                place = self._regions.places[name].url
                raise Unavailable(
                    "not_fit", f"{name} does not answer", place=place, cure="a drill begins with all well"
                )
        leading = [name for name, sight in latest.items() if sight.leads]
        if len(leading) != 1:
            told = "nobody takes writes" if not leading else f"{' and '.join(leading)} take writes"
            raise Unavailable("not_fit", told, place="the regions", cure="a drill begins with one primary")
        if plan.kind == "switchover" and plan.target[0] == leading[0]:
            raise ConfigError(
                "leads_already",
                f"{leading[0]} leads already",
                place="the plan's target",
                cure="name a region that follows",
            )
        if reason := stops(plan.stop, latest, 0.0):
            raise Unavailable("not_fit", reason, place="[stop]", cure="wait until the regions have caught up")

    def _writing(self) -> Writing:
        dsns = {name: secret.reveal() for name, secret in self._plan.canary.dsn.items()}
        if dsns:
            return PostgresWriting(self._about.id, self._plan.canary, dsns)
        return EmbeddedWriting(self._about.id, self._plan.canary, self._regions)

    async def _prepare(self, writing: Writing) -> None:
        assert self._first is not None
        try:
            await writing.prepare(self._first)
        except ReplicatorError as error:
            cure = error.cure or "PostgreSQL: name the databases in [canary] dsn"
            raise ConfigError(error.reason, error.message, place=f"[canary] in {self._first}", cure=cure) from error

    # -- watching

    async def _watch(self, name: str) -> None:
        while True:
            self.sights.saw(await self._regions.look(name))
            await trio.sleep(POLL_SECONDS)

    async def _guard(self, canaries: Canaries) -> None:
        """Stop the event when more is at risk than the plan allows."""
        while not self.stopped:
            if canaries.refused:
                self._fail(f"a canary is refused: {canaries.refused}")
                self._event_scope.cancel()
                return
            if reason := stops(self._plan.stop, self.sights.latest, canaries.blocked_seconds):
                self._stop(reason)
            await trio.sleep(GUARD_SECONDS)

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if not self.stopped.startswith("told to"):
                    self._stop(f"told to by {signal.Signals(number).name}")
                else:
                    log.warning("%s again: waits for nothing any more", signal.Signals(number).name)
                    self._back_scope.cancel()
                    self._end_scope.cancel()

    def _stop(self, reason: str) -> None:
        log.warning("the drill stops: %s", reason)
        self.stopped = self.stopped or reason
        self._event_scope.cancel()

    def _all_looked_at(self) -> bool:
        return all(name in self.sights.latest for name in self._regions.places)

    async def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether it held within so many seconds; looked at as often as the regions are."""
        with trio.move_on_after(seconds):
            while not holds():  # noqa: ASYNC110  # it is other machines that change
                await trio.sleep(POLL_SECONDS / 5)
            return True
        return False

    # -- the drill

    async def _with_canaries(self, canaries: Canaries) -> None:
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(canaries.run, stopping)
            try:
                with self._event_scope:
                    await self._until(lambda: bool(canaries.acknowledged), CANARY_SECONDS)
                    if not canaries.acknowledged:
                        raise Unavailable("no_canary", f"no write was acknowledged within {CANARY_SECONDS:g} s")
                    await trio.sleep(self._plan.steps.steady_seconds)
                    await self._event(canaries)
            except ReplicatorError as error:
                self.failed = str(error)
                log.error("the drill failed: %s", error)
            with self._back_scope:
                await self._way_back(canaries)
                await trio.sleep(self._plan.steps.steady_seconds)
            self._close_event()
            stopping.set()

    def _begin_event(self, name: str) -> Event:
        self._close_event()
        event = Event(name, self._clock(), float("inf"), self.sights.leader)
        self.events.append(event)
        log.info("%s: %s", name, self._plan.title)
        return event

    def _close_event(self) -> None:
        if self.events and self.events[-1].until == float("inf"):
            self.events[-1].until = self._clock()

    async def _event(self, canaries: Canaries) -> None:
        plan = self._plan
        event = self._begin_event("event")
        if plan.kind == "switchover":
            await self._switch(event, plan.target[0], canaries)
        elif plan.fault is not None:
            await self._break(event, canaries)
        await trio.sleep(plan.duration_seconds)
        event.new = self.sights.leader

    async def _switch(self, event: Event, target: str, canaries: Canaries) -> None:
        """Order a switchover, and wait for the first write that the target acknowledges."""
        seconds = self._plan.steps.change_seconds
        assert event.old is not None
        await self._regions.order(
            event.old,
            verb="switchover",
            target=target,
            seconds=seconds,
            reason=f"drill {self._about.id}",
        )
        await self._taken_over(event, canaries, lambda leader: leader == target)

    async def _taken_over(self, event: Event, canaries: Canaries, fits: Callable[[str], bool]) -> None:
        def done() -> bool:
            leader = self.sights.leader
            if leader is None or not fits(leader):
                return False
            event.new = leader
            return first_write(canaries.acknowledged, event.at, leader) is not None

        seconds = self._plan.steps.change_seconds
        if not await self._until(done, seconds):
            states = ", ".join(f"{name} is {sight.state}" for name, sight in self.sights.latest.items())
            raise Unavailable(
                "not_taken_over",
                f"no other region took over within {seconds:g} s: {states}",
                cure="see replicator status of each region; [steps] change gives it more time",
            )

    async def _break(self, event: Event, canaries: Canaries) -> None:
        plan = self._plan
        assert plan.fault is not None
        self._broken = True  # from the first command on, however it ends
        await faults.inject(plan.fault, self._note, self._about.id)
        if plan.steps.failover == "ordered" and (target := takes_over(plan)) is not None:
            await self._regions.order(
                target,
                verb="failover",
                target=target,
                seconds=plan.steps.change_seconds,
                allow_data_loss=plan.steps.allow_data_loss,
                primary_is_fenced=plan.steps.primary_is_fenced,
                reason=f"drill {self._about.id}",
            )
        if plan.expected == "failover":
            await self._taken_over(event, canaries, lambda leader: leader != event.old)

    # -- the way back

    async def _way_back(self, canaries: Canaries) -> None:
        await self._undo()
        if self.events:
            if not await self._until(self._all_well, self._plan.steps.recover_seconds):
                self._fail(f"not all is well again: {self._not_well()}")
                return
            self.events[0].new = self.events[0].new or self.sights.leader
            await self._back(canaries)

    async def _undo(self) -> None:
        plan = self._plan
        if not self._broken or plan.fault is None:
            return
        self._broken = False
        wrong = await faults.undo(plan.fault.undo, plan.fault.timeout_seconds)
        if wrong:
            self._fail(f"not undone, do it by hand: {'; '.join(wrong)}")
        else:
            self._note.clear()

    async def _back(self, canaries: Canaries) -> None:
        leader = self.sights.leader
        if not self._plan.back or leader is None or leader == self._first:
            return
        assert self._first is not None
        try:
            await self._switch(self._begin_event("back"), self._first, canaries)
        except ReplicatorError as error:
            self._fail(f"the primary is not back in {self._first}: {error}")
            return
        if not await self._until(self._all_well, self._plan.steps.recover_seconds):
            self._fail(f"not all is well after the way back: {self._not_well()}")

    def _fail(self, why: str) -> None:
        log.error("%s", why)
        self.failed = "; ".join(filter(None, (self.failed, why)))

    def _all_well(self) -> bool:
        return not self._not_well()

    def _not_well(self) -> str:
        """Why the deployment is not as it should be; empty if it is."""
        latest = self.sights.latest
        leading = [sight for sight in latest.values() if sight.leads]
        if len(leading) != 1:
            return f"{len(leading)} regions take writes"
        for name, sight in latest.items():
            if sight.leads:
                continue
            if sight.state not in ("following", "paused"):
                return f"{name} is {sight.state}"
            if sight.sequence < self.sights.furthest[leading[0].region] - self._slack():
                return f"{name} is at block {sight.sequence}, {leading[0].region} at {leading[0].sequence}"
        return ""

    def _slack(self) -> int:
        """Blocks that may be under way while canaries go on."""
        return max(round(2 * self._plan.canary.rate), 10)

    # -- the end

    def _report(self, canaries: Canaries, ends: list[RegionEnd]) -> Report:
        return report_of(
            self._about,
            self._plan,
            self.sights,
            self.events,
            canaries.acknowledged,
            canaries_of(canaries.begun, canaries.not_sent, canaries.acknowledged),
            ends,
            leader=self.sights.leader,
            ended=self._clock(),
            stopped=self.stopped,
            failed=self.failed,
            notes=self.notes,
        )

    async def _remove(self, canaries: Canaries, ends: list[RegionEnd]) -> None:
        there = next((end.there for end in ends if end.name == self.sights.leader), None)
        if there and self.sights.leader is not None:
            with contextlib.suppress(trio.TooSlowError), trio.fail_after(CANARY_SECONDS):
                self.notes += filter(None, [await canaries.remove(self.sights.leader, there)])
