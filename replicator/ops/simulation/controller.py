"""The life of a region's process: its tasks begin, and it decides for ever, as ``cluster/failover/controller`` does."""

from __future__ import annotations

from replicator.cluster.decisions.states import BEGINS_RETURN, ENDS_ORDERS, RoleEvent, RoleState
from replicator.ops.simulation.executor import do
from replicator.ops.simulation.region import DECIDE, SimulatedRegion
from replicator.ops.simulation.schedule import Task
from replicator.ops.simulation.tasks import copy, flow, follow, hurry, look, poll, renew, write

STEPS_AT_ONCE = 20


def start(region: SimulatedRegion) -> None:
    """Begin a life of the region's process."""
    world = region.world
    region.forget()
    for task in (look(region), renew(region), follow(region), flow(region), decide_for_ever(region)):
        world.spawn(region, task, world.dice.random() * 0.2)
    if world.copier == region.name:
        world.spawn(region, copy(region))
    for peer in region.rules.regions:
        if peer != region.name:
            world.spawn(region, poll(region, peer), world.dice.random() * 0.3)


def decide_for_ever(region: SimulatedRegion) -> Task:
    """Take one step after another."""
    world = region.world
    while True:
        for _ in range(STEPS_AT_ONCE):
            while region.locked:
                yield 0.01
            region.locked = True
            seen = region.seen()
            step = world.decide(region.memory, seen, region.rules)
            world.decisions += 1
            world.laws.decided(region, step)
            if step.event is RoleEvent.STAND:
                world.laws.stands(region)
            elif step.event is RoleEvent.GRANTED:
                world.laws.granted(region)
            if step.memory != region.memory:
                yield from write(region, step.memory)
                if step.event is not None:
                    entered(region, step.event, step.why)
            region.locked = False
            if step.action is not None and step.event is None:
                is_done = yield from do(region, step.action)
                if not is_done:
                    break
            elif step.event is None:
                break
        yield from region.sleep(DECIDE, world.weather.pace.decide.drawn(world.dice))


def entered(region: SimulatedRegion, event: RoleEvent, why: str) -> None:
    """What follows from an event."""
    region.since = region.clock()
    if event in ENDS_ORDERS:
        region.order = None
    if region.writers is not None and region.memory.state is RoleState.DEMOTED:
        region.writers.stop()
    if event is RoleEvent.HANDED_OVER:
        region.held.grant = None
    if event in BEGINS_RETURN:
        region.seal = None
    if event is RoleEvent.REWOUND:
        region.writers = None
    hurry(region)
    region.world.happened(region, event, why)
