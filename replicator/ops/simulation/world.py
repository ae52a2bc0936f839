"""The world: regions, the links between them, the lease store, time, and what goes wrong.

    world = World({name: Rules(me=name, regions=names, …)}, seed=17)
    world.run([Fault(10.0, "region_loss")], until=60.0)     # raises Broken if a law does not hold
    world.settle(60.0)                                      # no more faults: everybody must converge
    world.events, world.outcome()

Guarantee: the same arguments give the same history. The decisions are ``replicator.cluster.decisions.decide``'s own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from replicator.cluster.decisions import decide as core
from replicator.cluster.decisions.model import FailoverRules, first_state
from replicator.ops.simulation.chain import SimulatedBlock
from replicator.ops.simulation.checks import LawChecks, has
from replicator.ops.simulation.controller import start
from replicator.ops.simulation.ending import settle
from replicator.ops.simulation.faults import SimulatedFault
from replicator.ops.simulation.region import Cluster, Decide, SimulatedRegion
from replicator.ops.simulation.schedule import Process, Task
from replicator.ops.simulation.tasks import answer_writers
from replicator.ops.simulation.troubles import begin, crash
from replicator.ops.simulation.weather import FAIR, Weather


class Outcome(NamedTuple):
    """What became of it."""

    lost_blocks: int  # made by some primary, in no region's chain now (sealed ones among them)
    sealed_blocks: int
    acknowledged: int
    acknowledged_lost: int  # answered, and not in the primary's chain now
    seconds_without_writer: float
    converged: bool
    decisions: int


class World(Cluster):
    """A simulated cluster. ``first`` begins as primary, with ``blocks`` blocks that nobody else has.
    ``copy_seconds``: its ledger holds more than that at first, and is copied in about so long; 0: it does not."""

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
        copy_seconds: float = 0.0,
        traced: bool = False,
        decide: Decide = core.decide,
    ) -> None:
        super().__init__(seed, weather, ttl_seconds, clock_error, margin_seconds, traced=traced)
        self.decide, self.promise = decide, core.promise
        self.laws = self.checks = LawChecks(self)
        self._dark_since: float | None = 0.0
        self._dark_seconds = 0.0
        self._answered_epoch = 0
        first = first or next(iter(rules))
        for index, (name, own) in enumerate(rules.items()):
            memory = first_state("primary" if name == first else "replica", 0)
            priority = (priorities or {}).get(name, 0)
            self.regions[name] = SimulatedRegion(self, own, memory, priority)
            self.regions[name].set_base(1000.0 * (index + 1))
        self.copier, self.copy_seconds = (first, copy_seconds) if copy_seconds else ("", 0.0)
        for _ in range(0 if copy_seconds else blocks):
            self.append(self.regions[first], 0, "old")
        for region in self.regions.values():
            start(region)
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
        settle(self, self.checks, within_seconds)

    def _crash_sometimes(self, process: Process) -> bool:
        """Whether a process dies at this step of one of its tasks."""
        if self.dice.random() >= self.weather.crash or not isinstance(process, SimulatedRegion):
            return False
        crash(self, process, self.dice.random() * self.weather.crash_seconds)
        return True

    # -- the ledger

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
        if not region.is_whole:  # its log is read behind the copy
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

    def outcome(self) -> Outcome:
        """What became of it, up to now."""
        leader = max(self.regions.values(), key=lambda region: (region.is_open, region.fence_epoch))
        sealed = {block for region in self.regions.values() for block in region.sealed_ever}
        dark = self._dark_seconds + (0.0 if self._dark_since is None else self.now - self._dark_since)
        return Outcome(
            lost_blocks=sum(not has(leader, block) for block in self.made),
            sealed_blocks=len(sealed),
            acknowledged=len(self.checks.acknowledged),
            acknowledged_lost=sum(not has(leader, block) for block, _ in self.checks.acknowledged),
            seconds_without_writer=dark,
            converged=self.is_converged(),
            decisions=self.decisions,
        )
