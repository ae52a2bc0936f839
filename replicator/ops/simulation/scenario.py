"""A whole random history from a seed: how many regions, their rules, the weather, faults and orders."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, cast

from replicator.cluster.decisions.model import FailoverRules, Mode
from replicator.ops.simulation.faults import ORDERS, STORE, Kind, SimulatedFault
from replicator.ops.simulation.weather import Weather
from replicator.ops.simulation.world import Outcome, World

NAMES = ("amber", "birch", "coral", "dune", "ember")
STORY_SECONDS = 20.0
COPIES_EVERY = 10  # of so many seeds one begins with a first copy
_WEIGHTED: dict[Kind, int] = {
    "region_loss": 4,
    "partition": 4,
    "partition_one_way": 3,
    "slow_link": 2,
    "sidecar_crash": 4,
    "database_crash": 2,
    "disk_full": 2,
    "clock_skew": 2,
    "lease_store_loss": 2,
    "freeze": 3,
    "slow_replay": 1,
    "switchover": 5,
    "failover": 3,
    "pause": 1,
    "resume": 1,
    "rejoin": 1,
}


def world_of(seed: int, **options: Any) -> World:
    """The world of a seed, before anything happens."""
    dice = random.Random(seed * 7919 + 1)
    names = NAMES[: dice.choice([2, 3, 3, 3, 3, 4, 5])]
    mode = cast(Mode, dice.choice(["automatic"] * 6 + ["manual", "manual", "shadow"]))
    acknowledge = dice.choice([0, 1, 1, dice.randrange(len(names))])
    common: dict[str, Any] = {
        "regions": names,
        "mode": mode,
        "acknowledge": min(acknowledge, len(names) - 1),
        "suspect_seconds": dice.choice([1.0, 2.0]),
        "quiet_seconds": dice.choice([0.0, 2.0, 6.0]),
        "stand_seconds": dice.choice([0.3, 1.0]),
        "promise_seconds": dice.choice([0.5, 1.0]),
        "verify_seconds": 1.0,
        "step_seconds": dice.choice([3.0, 6.0]),
        "max_lost_blocks": dice.choice([0, 0, 3, 1000]),
        "rejoin": dice.choice(["automatic", "automatic", "manual"]),
    }
    rules = {name: FailoverRules(me=name, **common) for name in names}
    priorities = {name: dice.randrange(3) for name in names}
    clock_error = dice.choice([0.001, 0.01, 0.05])
    return World(
        rules,
        seed,
        ttl_seconds=dice.choice([1.0, 2.0, 3.0]),
        clock_error=clock_error,
        margin_seconds=dice.choice([0.05, 0.2]),
        weather=_weather(dice),
        priorities=priorities,
        first=dice.choice(names),
        blocks=dice.choice([0, 3]),
        copy_seconds=_copy_dice(seed).choice([2.0, 6.0]) if seed % COPIES_EVERY == 0 else 0.0,
        **options,
    )


def _weather(dice: random.Random) -> Weather:
    def sometimes(low: float, high: float) -> float:
        return dice.choice([0.0, low, high])

    return Weather(
        delay_seconds=dice.choice([0.005, 0.05, 0.2]),
        long_delay=sometimes(0.005, 0.05),
        loss=sometimes(0.01, 0.1),
        double=sometimes(0.05, 0.3),
        disk_fails=sometimes(0.01, 0.1),
        action_fails=sometimes(0.05, 0.2),
        crash=sometimes(0.0005, 0.003),
        action_seconds=dice.choice([0.05, 0.5]),
        write_every_seconds=dice.choice([0.1, 0.3]),
        settles=dice.choice([1.0, 1.0, 0.3, 0.1]),
        replay_blocks=dice.choice([1, 3, 50]),
    )


def plan_of(seed: int, world: World) -> list[SimulatedFault]:
    """The faults and orders of a seed."""
    dice = random.Random(seed * 104729 + 2)
    kinds, weights = list(_WEIGHTED), list(_WEIGHTED.values())
    names = list(world.regions)
    plan = []
    for _ in range(dice.choice([0, 1, 2, 4, 6, 10])):
        kind = dice.choices(kinds, weights)[0]
        region = dice.choice(["", "", *names])
        other = dice.choice([None, *names, STORE]) if "partition" in kind or kind == "slow_link" else None
        if kind == "switchover":
            other = dice.choice(names)
        plan.append(
            SimulatedFault(
                at=dice.uniform(1.0, STORY_SECONDS - 5.0),
                kind=kind,
                region=dice.choice(names) if kind in ("failover", "pause", "resume", "rejoin") else region,
                other=other,
                seconds=dice.choice([0.3, 1.0, 3.0, 8.0]),
                amount=dice.uniform(-1, 1) * world.clock_error if kind == "clock_skew" else dice.uniform(0.1, 1.0),
                allow_data_loss=dice.random() < 0.3,
            )
        )
    plan = [_told(fault, dice) if fault.kind in ORDERS else _within_story(fault) for fault in plan]
    plan += list(_orders_after(plan, dice, world))
    return plan + (_while_copying(seed, world) if world.copier else [])


def _copy_dice(seed: int) -> random.Random:
    """What is drawn for the first copy, apart from all else: other seeds' histories stay as they are."""
    return random.Random(seed * 15485863 + 3)


def _while_copying(seed: int, world: World) -> list[SimulatedFault]:
    """The region with the ledger cannot copy for a while, or is lost in the midst of it."""
    dice = _copy_dice(seed)
    kinds: list[Kind] = dice.sample(["source_halt", "sidecar_crash", "region_loss"], 2)
    faults = [
        SimulatedFault(dice.uniform(0.0, 6.0), kind, world.copier, seconds=dice.uniform(1.0, 9.0)) for kind in kinds
    ]
    return [_within_story(fault) for fault in faults]


def _orders_after(plan: list[SimulatedFault], dice: random.Random, world: World) -> Iterator[SimulatedFault]:
    """What people order when they see that the primary may be lost: again if that is refused, often too early or too
    late, and to whichever region."""
    for fault in plan:
        if fault.kind in ("region_loss", "partition", "freeze") and dice.random() < 0.6:
            for soonest, latest in ((0.5, 1.5), (1.2, 2.0), (1.5, 4.0)):
                at = fault.at + dice.uniform(soonest, latest) * world.ttl_seconds
                target = dice.choice(list(world.regions))
                yield _told(SimulatedFault(at, "failover", target, allow_data_loss=dice.random() < 0.5), dice)


def _within_story(fault: SimulatedFault) -> SimulatedFault:
    """Faults end before the world comes to rest."""
    return fault._replace(seconds=min(fault.seconds, STORY_SECONDS - fault.at))


def _told(order: SimulatedFault, dice: random.Random) -> SimulatedFault:
    """An order as a person gives it: it may count for long, and say no reason."""
    return order._replace(seconds=dice.choice([1.0, 8.0, 30.0]), reason=dice.choice(["", "drawn", "drawn"]))


def live(seed: int, change: Callable[[World], None] | None = None, **options: Any) -> Outcome:
    """Live a seed's history to its end. Raises Broken, or whatever the decisions raise."""
    world = world_of(seed, **options)
    if change is not None:
        change(world)
    world.run(plan_of(seed, world), STORY_SECONDS)
    steps = next(iter(world.regions.values())).rules.step_seconds
    world.settle(10 * world.ttl_seconds + 4 * steps + 20.0)
    return world.outcome()
