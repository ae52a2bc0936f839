"""The world: regions, the links between them, the lease store, time, and what goes wrong.

    world = World({name: Rules(me=name, regions=names, …)}, seed=17)
    world.run([Fault(10.0, "region_loss")], until=60.0)     # raises Broken if a law does not hold
    world.settle(60.0)                                      # no more faults: everybody must converge
    world.events, world.outcome()

Guarantee: the same arguments give the same history. The decisions are ``replicator.cluster.decisions.decide``'s own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from replicator.cluster.decisions import decide as core
from replicator.cluster.decisions.model import DurableState, FailoverRules, Observation, first_state
from replicator.cluster.decisions.states import RoleEvent, RoleState
from replicator.ops.simulation.chain import SimulatedBlock
from replicator.ops.simulation.checks import LawChecks, has
from replicator.ops.simulation.ending import settle
from replicator.ops.simulation.faults import STORE, SimulatedFault
from replicator.ops.simulation.region import SimulatedRegion
from replicator.ops.simulation.schedule import Process, Reply, Schedule, Task
from replicator.ops.simulation.store import LeaseStore
from replicator.ops.simulation.tasks import answer_writers, start
from replicator.ops.simulation.troubles import begin, crash
from replicator.ops.simulation.weather import FAIR, Weather

Decide = Callable[[DurableState, Observation, FailoverRules], core.Decision]

_KINDS = {
    RoleEvent.SUSPECT: "detected",
    RoleEvent.CLEAR: "cleared",
    RoleEvent.STAND: "decided",
    RoleEvent.FENCED: "fenced",
    RoleEvent.DRAINED: "drained",
    RoleEvent.PROMOTED: "promoted",
    RoleEvent.HAND_OVER: "closed",
    RoleEvent.REOPEN: "reopened",
    RoleEvent.HANDED_OVER: "handed_over",
}


class WorldEvent(NamedTuple):
    """What happened: virtual seconds, the region, a kind, words."""

    time: float
    region: str
    kind: str
    text: str


class Outcome(NamedTuple):
    """What became of it."""

    lost_blocks: int  # made by some primary, in no region's chain now (sealed ones among them)
    sealed_blocks: int
    acknowledged: int
    acknowledged_lost: int  # answered, and not in the primary's chain now
    seconds_without_writer: float
    converged: bool
    decisions: int


class World(Schedule):
    """A simulated cluster. ``first`` begins as primary, with ``blocks`` blocks that nobody else has."""

    def __init__(
        self,
        rules: Mapping[str, FailoverRules],
        seed: int,
        ttl_seconds: float = 3.0,
        clock_error: float = 0.01,
        margin_seconds: float = 0.1,
        *,
        weather: Weather = FAIR,
        priorities: Mapping[str, int] | None = None,
        first: str = "",
        blocks: int = 3,
        traced: bool = False,
        decide: Decide = core.decide,
    ) -> None:
        super().__init__()
        self.dice = random.Random(seed)
        self.weather, self.decide, self.promise = weather, decide, core.promise
        self.ttl_seconds, self.clock_error, self.margin_seconds = ttl_seconds, clock_error, margin_seconds
        self.store = LeaseStore(ttl_seconds)
        self.checks = LawChecks(self)
        self.events: list[WorldEvent] = []
        self.decisions = 0
        self._traced = traced
        self._cut: dict[tuple[str, str], float] = {}
        self._slow: dict[tuple[str, str], tuple[float, float]] = {}
        self._made: list[SimulatedBlock] = []
        self._dark_since: float | None = 0.0
        self._dark_seconds = 0.0
        self._answered_epoch = 0
        first = first or next(iter(rules))
        self.regions: dict[str, SimulatedRegion] = {}
        for index, (name, own) in enumerate(rules.items()):
            memory = first_state("primary" if name == first else "replica", 0)
            priority = (priorities or {}).get(name, 0)
            self.regions[name] = SimulatedRegion(self, own, memory, priority)
            self.regions[name].set_base(1000.0 * (index + 1))
        for _ in range(blocks):
            self.append(self.regions[first], 0, "old")
        for region in self.regions.values():
            start(region)
        self.outside = Process()
        self.is_quiet = False
        self.spawn(self.outside, self._writers())
        if weather.crash:
            self.on_step = self._crash_sometimes

    # -- running

    def run(self, plan: Sequence[SimulatedFault], until: float) -> None:
        """Let the plan happen. Raises Broken."""
        for fault in plan:
            self.at(fault.at, begin, self, fault)
        self.pass_time(until)

    def settle(self, within_seconds: float) -> None:
        """No more faults: everybody converges within this time, or Broken is raised. Operators give the orders that the
        mode needs."""
        settle(self, within_seconds)

    def is_converged(self) -> bool:
        """One region leads, all others follow it and have what it has."""
        leaders = [region for region in self.regions.values() if region.memory.state is RoleState.PRIMARY]
        if len(leaders) != 1 or not leaders[0].is_open:
            return False
        leader = leaders[0]
        for region in self.regions.values():
            if region is leader:
                continue
            if (
                region.memory.state is not RoleState.FOLLOWING
                or region.session.region != leader.name
                or region.refused_by
            ):
                return False
            if region.spool or region.journal != leader.journal or region.applied != len(leader.journal):
                return False
        return True

    def _crash_sometimes(self, process: Process) -> bool:
        """Whether a process dies at this step of one of its tasks."""
        if self.dice.random() >= self.weather.crash or not isinstance(process, SimulatedRegion):
            return False
        crash(self, process, self.dice.random() * self.weather.crash_seconds)
        return True

    # -- the network

    def delay(self, source: str, target: str) -> float | None:
        """How long a message takes; None: it is lost."""
        if self._cut and self.now < self._cut.get((source, target), 0.0):
            return None
        if STORE in (source, target) and self.store.is_away:
            return None
        weather, dice = self.weather, self.dice
        if weather.loss and dice.random() < weather.loss:
            return None
        seconds = dice.random() * weather.delay_seconds
        if weather.long_delay and dice.random() < weather.long_delay:
            seconds += dice.random() * weather.long_delay_seconds
        if self._slow:
            until, more = self._slow.get((source, target), (0.0, 0.0))
            seconds += more if self.now < until else 0.0
        return seconds

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Lose every message one way."""
        self._cut[source, target] = self.now + seconds

    def mend(self) -> None:
        """Every link works again."""
        self._cut.clear()
        self._slow.clear()

    def slow(self, source: str, target: str, seconds: float, more: float) -> None:
        """Delay every message one way."""
        self._slow[source, target] = self.now + seconds, more

    def process(self, name: str) -> Process:
        """Who is at an address."""
        return self.store if name == STORE else self.regions[name]

    def send(self, source: str, target: str, call: Callable[..., Any], *arguments: Any) -> bool:
        """A message; it may be lost, late, doubled. Whether it is on its way."""
        seconds = self.delay(source, target)
        if seconds is None:
            return False
        self.at(self.now + seconds, self.deliver, self.process(target), call, *arguments)
        if self.weather.double and self.dice.random() < self.weather.double:
            seconds = self.delay(source, target) or 0.0
            self.at(self.now + seconds, self.deliver, self.process(target), call, *arguments)
        return True

    def ask(self, region: SimulatedRegion, target: str, call: Callable[[], Any], limit_seconds: float) -> Reply:
        """A question; the reply is None if no answer comes in time. What was asked may have been done all the same."""
        reply = Reply(self.now + limit_seconds)
        seconds = self.delay(region.name, target)
        if seconds is not None:
            process = self.process(target)
            self.at(self.now + seconds, self._arrive, process, region.name, target, reply, call)
            if self.weather.double and self.dice.random() < self.weather.double:
                again = self.now + (self.delay(region.name, target) or 0.0)
                self.at(again, self._arrive, process, region.name, target, reply, call)
        if seconds is None or self.now + seconds >= reply.limit:
            self.at(reply.limit, reply.give, None)
        return reply

    def _arrive(self, process: Process, source: str, target: str, reply: Reply, call: Callable[[], Any]) -> None:
        """A question comes to a process that may be frozen or gone."""
        now = self.now
        seconds: float | None = None
        if process.frozen_until > now:
            self.at(process.frozen_until, self._arrive, process, source, target, reply, call)
        elif process.up:
            value = call()
            seconds = self.delay(target, source)
            if seconds is not None and now + seconds < reply.limit:
                self.at(now + seconds, self.deliver, self.process(source), reply.give, value)
                return
        if reply.resume is not None:  # it is waited for no longer than it was to be
            self.at(max(reply.limit, now), reply.give, None)

    def answer(self, source: str, target: str, reply: Reply, value: Any) -> None:
        """Send an answer back."""
        self.send(source, target, reply.give, value)

    # -- the ledger

    def append(self, region: SimulatedRegion, epoch: int, what: str) -> SimulatedBlock:
        """A primary commits a block."""
        block = SimulatedBlock(len(region.journal) + 1, epoch, region.head, f"{region.name}{len(self._made)}{what}")
        region.journal.append(block)
        self.checks.appended(block)
        self._made.append(block)
        return block

    def _writers(self) -> Task:
        """Writers everywhere; those who are refused try again."""
        while not self.is_quiet:
            yield self.dice.random() * 2 * self.weather.write_every_seconds
            for region in self.regions.values():
                if region.memory.half == "primary" and region.up and region.is_open:
                    self.spawn(region, self._write(region))

    def _write(self, region: SimulatedRegion) -> Task:
        """One write: the permit is looked at when it is taken, before it is appended, and before it is answered."""
        yield self.dice.random() * 0.02
        if not region.is_open or region.disk_fails or self.now < region.database_down_until:
            return
        epoch = region.fence_epoch
        region.in_flight += 1
        yield self.dice.random() * 0.005
        region.in_flight -= 1
        if not region.is_open:
            return
        block = self.append(region, epoch, "")
        if region.writers is not None:
            region.writers.wrote(block)
        yield 0.0
        answer_writers(region)

    def answered(self, region: SimulatedRegion, block: SimulatedBlock) -> None:
        """A writer has its answer."""
        if self._dark_since is not None:
            self._dark_seconds += self.now - self._dark_since
            self._dark_since = None
        if block.epoch != self._answered_epoch:
            self._answered_epoch = block.epoch
            self.note(region.name, "first_write", f"in epoch {block.epoch}")

    # -- what is noted

    def happened(self, region: SimulatedRegion, event: RoleEvent, why: str) -> None:
        """A region changed its state."""
        self.note(region.name, _KINDS.get(event, event.name.lower()), why)

    def note(self, region: str, kind: str, text: str) -> None:
        """Keep what happened."""
        self.events.append(WorldEvent(self.now, region, kind, text))
        if self._traced:
            self._show(region, kind, text)

    def trace(self, region: SimulatedRegion, kind: str, text: str) -> None:
        """Show it, if somebody reads along."""
        if self._traced:
            self._show(region.name, kind, text)

    def _show(self, name: str, kind: str, text: str) -> None:
        region = self.regions.get(name)
        state = (
            ""
            if region is None
            else (f"{region.memory.state} e{region.memory.epoch} p{region.memory.promised} {len(region.journal)}")
        )
        print(f"{self.now:9.3f}  {name:12} {state:26} {kind:12} {text}")

    def outcome(self) -> Outcome:
        """What became of it, up to now."""
        leader = max(self.regions.values(), key=lambda region: (region.is_open, region.fence_epoch))
        sealed = {block for region in self.regions.values() for block in region.sealed_ever}
        dark = self._dark_seconds + (0.0 if self._dark_since is None else self.now - self._dark_since)
        return Outcome(
            lost_blocks=sum(not has(leader, block) for block in self._made),
            sealed_blocks=len(sealed),
            acknowledged=len(self.checks.acknowledged),
            acknowledged_lost=sum(not has(leader, block) for block, _ in self.checks.acknowledged),
            seconds_without_writer=dark,
            converged=self.is_converged(),
            decisions=self.decisions,
        )
