"""A plan in the simulation, with the operator's own rules, on a virtual clock, for as many seeds as one likes.

    CONFIG ─▶ rules ─▶ world(seed) ─▶ calm ─▶ the event ─▶ its end ─▶ and back ─▶ all at rest ─▶ measured

Guarantee: a seed is one history, wholly; replayed alone it is the same. The decisions are those of the running sidecar.
What is measured is measured as on a running deployment, with the simulation's writers as canaries. A history that
breaks a law of the simulation misses, and says which.

Not here: how long a database or a disk takes. The world says what is possible, not how fast a machine is.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from replicator.cluster.decisions.model import FailoverRules
from replicator.config import Config
from replicator.errors import ConfigError
from replicator.ops.drills.rules.measures import Canary, WriteOutage, first_write, is_interruption, longest_gap
from replicator.ops.drills.rules.plan import LIVE_ONLY, DrillPlan, takes_over
from replicator.ops.drills.sidecar_pace import WRITE_EVERY_SECONDS, sidecar_weather
from replicator.ops.simulation.chain import SimulatedBlock
from replicator.ops.simulation.checks import BrokenLaw
from replicator.ops.simulation.faults import Kind, SimulatedFault
from replicator.ops.simulation.network import WorldEvent
from replicator.ops.simulation.region import SimulatedRegion
from replicator.ops.simulation.weather import Weather
from replicator.ops.simulation.world import World
from replicator.runtime import wiring

CALM_SECONDS = 4.0
AT_ONCE = 50  # seeds of a worker's turn
FEW_SEEDS = 40  # not worth more than one process

DEFAULT_TTL_SECONDS, DEFAULT_CLOCK_ERROR, DEFAULT_MARGIN_SECONDS = 10.0, 0.01, 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class SimulationSetting:
    """What all seeds have in common. ``first`` leads before the event."""

    plan: DrillPlan
    rules: Mapping[str, FailoverRules]
    ttl_seconds: float
    clock_error: float
    margin_seconds: float
    priorities: Mapping[str, int]
    first: str
    weather: Weather


class SimulatedHistory(NamedTuple):
    """One seed's history, measured. ``broken`` names the law that did not hold."""

    seed: int
    event_at: float
    rto_seconds: float | None
    blocked_seconds: float
    lost_blocks: int
    acknowledged_lost: int
    changed: bool
    converged: bool
    has_writer: bool
    virtual_seconds: float
    broken: str = ""


def setting_of(config: Config, plan: DrillPlan) -> SimulationSetting:
    """The operator's configuration as the simulation takes it. Raises ConfigError."""
    place = str(config.region.name)
    if config.cluster is None:
        cure = "give it a [cluster], as every region that may take over has one"
        raise ConfigError("no_cluster", "the configuration names no other region", place=place, cure=cure)
    if plan.kind in LIVE_ONLY:
        message = f"in a {plan.kind} there is nothing to simulate"
        raise ConfigError("not_simulated", message, place="the plan's kind", cure="run it without --local")
    names = tuple(config.cluster.regions)
    for name in (*plan.target, *([plan.other] if plan.other else [])):
        if name not in names:
            cure = f"the regions are {', '.join(names)}"
            raise ConfigError("unknown_region", f"there is no region {name}", place="the plan's target", cure=cure)
    own = wiring.rules(config)
    lease = config.lease
    ttl_seconds = lease.ttl_seconds if lease else DEFAULT_TTL_SECONDS
    return SimulationSetting(
        plan,
        {name: dataclasses.replace(own, me=name) for name in names},
        ttl_seconds,
        lease.clock_error if lease else DEFAULT_CLOCK_ERROR,
        lease.margin_seconds if lease else DEFAULT_MARGIN_SECONDS,
        {config.region.name: config.failover.priority},
        _first(plan, names),
        sidecar_weather(config, ttl_seconds),
    )


def _first(plan: DrillPlan, names: Sequence[str]) -> str:
    """Who leads before the event: who is to fail, or somebody else if nobody is to take over."""
    if plan.kind == "switchover" or (plan.target and plan.expected == "no_failover"):
        return next((name for name in names if name not in plan.target), names[0])
    return plan.target[0] if plan.target else names[0]


# -- one seed


class WatchedWorld(World):
    """A world whose acknowledged writes are kept as canaries."""

    canaries: list[Canary]

    def answered(self, region: SimulatedRegion, block: SimulatedBlock) -> None:
        """A writer has its answer."""
        super().answered(region, block)
        self.canaries.append(Canary(len(self.canaries) + 1, self.now, self.now, region.name))


def world_of(setting: SimulationSetting, seed: int, *, traced: bool = False) -> WatchedWorld:
    """The world of a seed before anything happens: calm, and its last change of the primary long ago."""
    world = WatchedWorld(
        setting.rules,
        seed,
        setting.ttl_seconds,
        setting.clock_error,
        setting.margin_seconds,
        weather=setting.weather,
        priorities=setting.priorities,
        first=setting.first,
        traced=traced,
    )
    world.canaries = []
    world.run([], CALM_SECONDS)
    for region in world.regions.values():
        region.memory = dataclasses.replace(region.memory, changed_at=None)
    return world


def live(setting: SimulationSetting, seed: int) -> SimulatedHistory:
    """A seed's history, lived from its beginning."""
    return lived(setting, seed, world_of(setting, seed))


def lived(setting: SimulationSetting, seed: int, world: WatchedWorld) -> SimulatedHistory:
    """Let the plan happen to a world, and measure it."""
    event_at, faults, until = schedule_of(setting, seed)
    broken = ""
    try:
        world.run(faults, until)
        ended = world.now
        steps = next(iter(setting.rules.values())).step_seconds
        world.settle(10 * setting.ttl_seconds + 4 * steps + 20.0)
    except BrokenLaw as error:
        broken, ended = str(error) or "a law did not hold", world.now
    outcome = world.outcome()
    back_at = next((fault.at for fault in faults[1:] if fault.kind == "switchover"), ended)
    change = changed_of(world, setting.first, event_at, min(back_at, ended))
    gap = longest_gap(world.canaries, event_at, ended)
    return SimulatedHistory(
        seed=seed,
        event_at=event_at,
        rto_seconds=_rto(world, change, gap, event_at),
        blocked_seconds=gap.seconds,
        lost_blocks=outcome.lost_blocks,
        acknowledged_lost=outcome.acknowledged_lost,
        changed=change is not None,
        converged=outcome.converged,
        has_writer=any(region.is_open for region in world.regions.values()),
        virtual_seconds=world.now,
        broken=broken,
    )


def schedule_of(setting: SimulationSetting, seed: int) -> tuple[float, list[SimulatedFault], float]:
    """When the event is, what happens when, and until when. The seed moves the event within the lease's term, so that
    every place in it is met."""
    plan, dice = setting.plan, random.Random(seed * 6_700_417 + 5)
    at = CALM_SECONDS + dice.uniform(0.0, max(setting.ttl_seconds, 1.0))
    seconds = plan.duration_seconds
    faults = [_fault(setting, at, dice)]
    if plan.steps.failover == "ordered" and (target := takes_over(plan)) is not None:
        ordered_at = at + setting.ttl_seconds + next(iter(setting.rules.values())).suspect_seconds
        order = SimulatedFault(ordered_at, "failover", target, seconds=plan.steps.change_seconds)
        faults.append(order._replace(allow_data_loss=plan.steps.allow_data_loss))
    rest = 2 * setting.ttl_seconds + 5.0
    until = at + seconds + rest
    if plan.back and plan.expected != "no_failover":
        faults.append(SimulatedFault(until, "switchover", "", setting.first, min(plan.steps.change_seconds, 30.0)))
        until += rest
    return at, faults, until


def _fault(setting: SimulationSetting, at: float, dice: random.Random) -> SimulatedFault:
    plan = setting.plan
    region = plan.target[0] if plan.target else ""
    if plan.kind == "switchover":
        return SimulatedFault(at, "switchover", "", region, min(plan.steps.change_seconds, 30.0))
    kind: Kind = "partition_one_way" if plan.one_way else plan.kind  # type: ignore[assignment]  # setting_of looked
    amount = plan.delay_seconds or 0.5 if plan.kind == "slow_link" else 0.0
    if plan.kind == "clock_skew":
        amount = dice.choice([-1.0, 1.0]) * setting.clock_error  # as wrong as the configuration allows
    other = plan.other if plan.kind in ("partition", "slow_link") else None
    return SimulatedFault(at, kind, region, other, plan.duration_seconds, amount)


def changed_of(world: WatchedWorld, first: str, began: float, ended: float) -> WorldEvent | None:
    """The first promotion of another region."""
    promotions = (event for event in world.events if event.kind == "promoted" and event.region != first)
    return next((event for event in promotions if began <= event.time <= ended), None)


def _rto(world: WatchedWorld, change: WorldEvent | None, gap: WriteOutage, event_at: float) -> float | None:
    if change is not None:
        write = first_write(world.canaries, event_at, change.region)
        return None if write is None else write.acked_at - event_at
    if not is_interruption(gap, 1 / WRITE_EVERY_SECONDS):
        return 0.0
    write = first_write(world.canaries, gap.ended)
    return None if write is None else write.acked_at - event_at


# -- many seeds


def live_all(
    setting: SimulationSetting,
    seeds: range,
    workers: int | None = None,
) -> tuple[list[SimulatedHistory], float]:
    """Every seed's history, in order, and how many seconds they took. ``workers`` are processes."""
    began = time.monotonic()
    if workers is None:
        workers = 1 if len(seeds) < FEW_SEEDS else os.cpu_count() or 1
    histories: list[SimulatedHistory] = []
    for turn in _turns(setting, seeds, workers):
        histories += turn
    return histories, max(time.monotonic() - began, 1e-9)


def _turns(setting: SimulationSetting, seeds: range, workers: int) -> Iterator[list[SimulatedHistory]]:
    turns = [seeds[place : place + AT_ONCE] for place in range(0, len(seeds), AT_ONCE)]
    if workers == 1:
        yield from (_turn(setting, turn) for turn in turns)
        return
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_turn, [setting] * len(turns), turns)


def _turn(setting: SimulationSetting, seeds: range) -> list[SimulatedHistory]:
    return [live(setting, seed) for seed in seeds]
