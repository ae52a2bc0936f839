"""What runs in a region's process beside its actions: looking, renewing, polling, following, applying.

The order of things is that of ``cluster/failover/controller``, ``cluster/failover/lease_keeper`` and
``cluster/failover/peers``: each wait is a place at which the process may be killed, frozen, or overtaken by a promise.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from replicator.cluster.decisions.model import DurableState, HeardReport, MemberReport
from replicator.cluster.decisions.promises import breaks_promise
from replicator.cluster.decisions.states import (
    FOLLOWS,
    SETTLED,
    IllegalEvent,
    RoleEvent,
    RoleState,
)
from replicator.cluster.decisions.step import entering
from replicator.cluster.leases.base import Grant, LeaseLost
from replicator.cluster.leases.record import LeaseRecord
from replicator.ops.simulation.chain import PulledBlocks, SimulatedBlock, after
from replicator.ops.simulation.faults import STORE
from replicator.ops.simulation.region import COPY, FLOW, PULL, Cluster, SimulatedRegion
from replicator.ops.simulation.schedule import Reply, Task
from replicator.ops.simulation.store import STRAND

DRAIN_SECONDS = 2.0


# -- the lease


def look(region: SimulatedRegion) -> Task:
    """Look at the lease, for ever."""
    world = region.world
    while True:
        yield from look_once(region)
        yield world.weather.pace.look.drawn(world.dice)


def look_once(region: SimulatedRegion) -> Task:
    """Look at the lease now."""
    world, before = region.world, region.view
    region.view = yield world.ask(region.name, STORE, lambda: world.store.look(world.now), world.ttl_seconds / 3)
    if before is None:
        region.view_since = region.clock()
    if region.view != before:
        region.look_again()


def renew(region: SimulatedRegion) -> Task:
    """Renew what is held three times within its time, for ever."""
    world = region.world
    while True:
        grant = region.held.grant
        if grant is None or world.now < region.database_down_until:
            yield 0.3
            continue
        at = region.clock()  # before the store is asked
        answer = yield world.ask(region.name, STORE, partial(_renewed, world, grant), world.ttl_seconds / 3)
        if isinstance(answer, LeaseLost):
            region.held.grant, region.view = None, answer.view
            region.look_again()
        elif answer is not None and region.held.renew(grant, granted(region, answer, at)):
            region.move_fence(region.held.prolong())
            yield world.ttl_seconds / 3
            continue
        yield 0.2


def _renewed(world: Cluster, grant: Grant) -> LeaseRecord | LeaseLost:
    return world.store.renew(world.now, grant)


def granted(region: SimulatedRegion, kept: LeaseRecord, at: float) -> Grant:
    """The grant that the store's answer is; ``at``: the region's clock before the store was asked."""
    assert kept.holder is not None
    return Grant(STRAND, *kept.holder, kept.lease_id, at, region.world.ttl_seconds)


# -- peers


def poll(region: SimulatedRegion, peer: str) -> Task:
    """Keep a peer's last report, for ever."""
    world = region.world
    other = world.regions[peer]
    while True:
        at = region.clock()
        report = yield world.ask(region.name, peer, other.report, 1.5)
        if report is not None:
            take_report(region, report, at)
        pace = world.weather.pace
        seconds = pace.poll_calm_seconds if region.memory.state in SETTLED else pace.poll_quick_seconds
        yield from region.sleep(_polling(peer), seconds)


def take_report(region: SimulatedRegion, report: MemberReport, at: float) -> None:
    """What a peer has said to a question of this time."""
    region.peers[report.region] = HeardReport(report, at)
    region.look_again()


def hurry(region: SimulatedRegion) -> None:
    """Look at every peer again at once."""
    for peer in region.rules.regions:
        region.wake(_polling(peer))


def _polling(peer: str) -> str:
    return f"poll {peer}"


def promised(region: SimulatedRegion, epoch: int, reply: Reply, back: str) -> Task:
    """A peer asks for a promise: durable, and true of the journal, before it is answered."""
    world = region.world
    while region.locked:
        yield 0.01
    region.locked = True
    memory = world.promise(region.memory, epoch)
    if memory != region.memory:
        yield from write(region, memory)
    if breaks_promise(region.memory, epoch, is_open=region.clock() < region.held.open_until):
        yield from close_fence(region)
    if not region.honours(epoch):
        yield from unfollow(region)
    region.locked = False
    region.look_again()
    world.answer(region.name, back, reply, region.report())


def close_fence(region: SimulatedRegion) -> Task:
    """Close the fence; what has been let in is seen through."""
    region.held.begin_closing()
    region.fence_until = min(region.fence_until, region.clock())
    while region.in_flight:
        yield 0.01
    region.held.closed()


# -- memory


def write(region: SimulatedRegion, memory: DurableState) -> Task:
    """Make a memory durable, however often that takes; nothing is done meanwhile."""
    world = region.world
    while True:
        yield world.weather.pace.keep.drawn(world.dice)
        if not region.disk_fails:
            break
        yield 0.2
    world.laws.remembers(region, memory)
    region.memory = memory
    region.kept_grant = None if region.held.grant is None else region.held.grant.as_json()
    yield 0.0  # a process that dies now has kept it, and has done nothing yet


def change(region: SimulatedRegion, **fields: object) -> Task:
    """Change the memory as it is at that moment: a promise may have come in between."""
    while region.locked:
        yield 0.01
    region.locked = True
    yield from write(region, dataclasses.replace(region.memory, **fields))  # type: ignore[arg-type]
    region.locked = False


def pause(region: SimulatedRegion, event: RoleEvent) -> Task:
    """An operator pauses or resumes it, if its state knows that."""
    while region.locked:
        yield 0.01
    try:
        step = entering(region.memory, event)
    except IllegalEvent:
        return
    region.locked = True
    yield from write(region, step.memory)
    region.since = region.clock()
    region.locked = False


# -- the flow


def copy(region: SimulatedRegion) -> Task:
    """The source reads all that the ledger held at first; a process that ends begins it anew."""
    world = region.world
    while not region.is_whole:
        yield world.dice.random() * 2 * world.copy_seconds
        if region.memory.half != "primary" or world.now < max(region.source_halted_until, region.database_down_until):
            yield 0.2
        elif not region.disk_fails:
            world.append(region, region.memory.led, COPY)


def unfollow(region: SimulatedRegion, to: str | None = None) -> Task:
    """Follow another region, or nobody; in the latter case what has arrived is brought into the journal first."""
    if to is not None and region.memory.epoch > region.session.epoch:
        region.heard_head = 0
    region.session = region.session.following(to, region.memory.epoch)
    region.connection += 1
    region.refused_by, region.heard_at = "", None
    region.wake(PULL)
    region.wake(FLOW)
    limit = region.world.now + DRAIN_SECONDS
    while to is None and region.spool and region.world.now < limit:
        yield 0.02


def follow(region: SimulatedRegion) -> Task:
    """Pull from the region that is followed, for ever. Each request says how far this region has durably."""
    world, dice = region.world, region.world.dice
    while True:
        source, connection = region.session.region, region.connection
        if source is None or region.memory.half != "replica":
            yield from region.sleep(PULL, 0.2)
            continue
        last = region.spool[-1] if region.spool else region.head
        other = world.regions[source]
        pulled = yield world.ask(region.name, source, partial(serve, other, region.name, region.received, last), 1.5)
        if pulled is None or connection != region.connection:
            yield 0.1
            continue
        if take_blocks(region, pulled):
            yield 0.01
        else:
            yield from region.sleep(PULL, world.weather.pace.pull.drawn(dice))


def serve(region: SimulatedRegion, name: str, sequence: int, head: SimulatedBlock | None) -> PulledBlocks:
    """The feed: what follows a position. Whoever asks has all before it durably."""
    says, blocks = after(region.journal, sequence, head, 20)
    if not says and region.writers is not None:
        region.writers.reported(name, sequence)
        answer_writers(region)
    return PulledBlocks(says, blocks, region.name, len(region.journal))


def answer_writers(region: SimulatedRegion) -> None:
    """Answer the writers whose blocks enough other regions have."""
    if region.writers is not None:
        for block in region.writers.released():
            if region.is_open:  # or else the writer is told that the outcome is not known
                region.world.laws.answers(region, block)


def take_blocks(region: SimulatedRegion, pulled: PulledBlocks) -> bool:
    """Take what the feed has sent; whether something came."""
    region.heard_at = region.clock()
    region.heard_head = max(region.heard_head, pulled.head)
    region.refused_by = pulled.region if pulled.says else ""
    if not pulled.blocks or region.disk_fails:
        return False
    assert pulled.blocks[0].sequence == region.received + 1
    region.spool += pulled.blocks
    region.wake(FLOW)
    return True


def flow(region: SimulatedRegion) -> Task:
    """Settle, apply and verify what was received, for ever."""
    world = region.world
    while True:
        yield from region.sleep(FLOW, world.weather.pace.flow.drawn(world.dice) + _idle_seconds(region))
        if region.spool and world.dice.random() < world.weather.settles and not region.disk_fails:
            region.settle(1 + world.dice.randrange(len(region.spool) + 2))
        if world.now < region.database_down_until or region.memory.state is RoleState.REJOINING:
            continue
        step = 1 if world.now < region.slow_until else world.weather.replay_blocks
        if region.memory.half == "primary" and region.memory.state not in FOLLOWS:
            region.applied = region.verified = len(region.journal)
            continue
        region.verified = max(region.verified, region.applied - world.dice.randrange(3))
        region.applied = min(region.applied + step, len(region.journal))


def _idle_seconds(region: SimulatedRegion) -> float:
    """How much longer the flow sleeps because there is nothing to do: what comes wakes it."""
    is_behind = region.memory.half == "replica" and (region.spool or region.verified < len(region.journal))
    return 0.0 if is_behind else region.world.weather.pace.idle_seconds
