"""A region's actions. Each takes time, may fail before or after its effect, and may be cut off anywhere by a crash."""

from __future__ import annotations

import dataclasses

from replicator.cluster.decisions.model import (
    Action,
    AskPromises,
    ClaimLease,
    CloseFence,
    FetchBlocks,
    FollowRegion,
    HandOver,
    KeepLease,
    OpenFence,
    Order,
    Promote,
    ReleaseLease,
    ReportIntent,
    RewindToFork,
    SealOrphans,
    VerifyApplied,
)
from replicator.cluster.decisions.orders import check_order, take_over
from replicator.cluster.leases.base import Holder, LeaseLost, LeaseView, is_held_by
from replicator.errors import Rejected
from replicator.ops.simulation.chain import SimulatedBlock, fork
from replicator.ops.simulation.faults import STORE
from replicator.ops.simulation.region import SealedOrphans, SimulatedRegion
from replicator.ops.simulation.schedule import Reply, Task
from replicator.ops.simulation.tasks import change, close_fence, granted, look_once, promised, take_report, unfollow

RETRY_SECONDS = 0.2
ANSWER_SECONDS = 1.5


def do(region: SimulatedRegion, action: Action) -> Task:
    """Do it; whether to look again at once."""
    world, dice, weather = region.world, region.world.dice, region.world.weather
    world.trace(region, "does", str(action))
    if dice.random() < weather.action_fails:
        yield RETRY_SECONDS
        return False
    match action:
        case FollowRegion(to):
            return (yield from _follow(region, to))
        case FetchBlocks(to):
            done = region.session.region == to or (yield from _follow(region, to))
            yield weather.pace.brief_seconds
            return done
        case ClaimLease(epoch, instead_of):
            return (yield from _claim(region, epoch, instead_of))
        case AskPromises(epoch):
            return (yield from _ask(region, epoch))
        case VerifyApplied():
            yield weather.pace.brief_seconds
            if dice.random() < 0.8:
                region.verified = max(region.verified, region.applied)
        case Promote(epoch):
            return (yield from _promote(region, epoch))
        case OpenFence(epoch):
            yield weather.pace.open_fence.drawn(dice)
            if region.is_database_down:
                yield RETRY_SECONDS
                return False
            region.move_fence(region.held.open(epoch))
        case CloseFence():
            yield weather.pace.close_fence.drawn(dice)
            yield from close_fence(region)
        case HandOver(target, sequence):
            return (yield from _hand_over(region, target, sequence))
        case KeepLease():
            return (yield from _keep_mine(region))
        case ReleaseLease():
            grant, region.held.grant = region.held.grant, None
            if grant is not None:
                yield world.ask(region.name, STORE, lambda: world.store.release(grant), world.ttl_seconds / 3)
            yield from look_once(region)
        case SealOrphans(to):
            return (yield from _seal(region, to))
        case RewindToFork():
            return (yield from _rewind(region))
        case ReportIntent():
            return False
    if dice.random() < weather.action_fails:
        yield RETRY_SECONDS
    return True


def _follow(region: SimulatedRegion, to: str | None) -> Task:
    if region.memory.half != "replica":
        yield RETRY_SECONDS
        return False
    yield from unfollow(region, to)
    return True


def _claim(region: SimulatedRegion, epoch: int, instead_of: Holder | None) -> Task:
    world = region.world
    if region.is_database_down:  # no anchor, no claim
        yield RETRY_SECONDS
        return False
    at = region.clock()  # before the store is asked
    answer = yield world.ask(
        region.name, STORE, lambda: world.store.claim(world.now, region.name, epoch, instead_of), world.ttl_seconds / 3
    )
    if answer is None:
        yield RETRY_SECONDS
    elif isinstance(answer, LeaseLost):
        region.view = answer.view
    else:
        grant = region.held.grant = granted(region, answer, at)
        region.view = LeaseView(grant.holder, epoch)
        yield from change(region)  # a restart takes it up again
        return True
    return False


def _ask(region: SimulatedRegion, epoch: int) -> Task:
    world = region.world
    at = region.clock()
    replies: list[Reply] = []
    for name in region.rules.regions:
        if name != region.name:
            reply = Reply(world.now + _patience_seconds(region, name))
            other = world.regions[name]
            world.send(
                region.name,
                name,
                lambda other=other, reply=reply: world.spawn(other, promised(other, epoch, reply, region.name)),
            )
            replies.append(reply)
    box: list[object] = []
    for reply in replies:
        reply.resume = box.append
    while any(reply.resume is not None and world.now < reply.limit for reply in replies):
        yield 0.03
        for report in box:
            take_report(region, report, at)  # type: ignore[arg-type]
    for reply in replies:
        reply.resume = None
    region.asked = epoch
    return True


def _patience_seconds(region: SimulatedRegion, peer: str) -> float:
    """How long a peer's promise is waited for."""
    heard = region.peers.get(peer)
    is_silent = heard is None or region.clock() - heard.at > ANSWER_SECONDS
    return region.world.weather.pace.silent_seconds if is_silent else ANSWER_SECONDS


def _promote(region: SimulatedRegion, epoch: int) -> Task:
    world = region.world
    stop_feed(region)
    yield world.weather.pace.promote_least_seconds + world.dice.random() * world.weather.action_seconds
    if region.disk_fails or world.now < region.database_down_until:
        yield RETRY_SECONDS
        return False
    if region.memory.half == "replica":
        region.spool.clear()  # what could not be settled is behind a gap, and never will be
    head = region.head
    if head is None or head.epoch < epoch:
        world.append(region, epoch, "epoch")
    yield world.dice.random() * world.weather.action_seconds
    yield from change(region, half="primary", led=epoch)
    region.applied = region.verified = len(region.journal)
    region.writers = region.new_writers()
    return True


def stop_feed(region: SimulatedRegion) -> None:
    """The half of the flow that runs is stopped: nothing arrives any more."""
    region.session = region.session.following(None, 0)
    region.connection += 1


def _hand_over(region: SimulatedRegion, target: str, sequence: int) -> Task:
    world = region.world
    take = take_over(region.order, region.view, region.name, target, sequence)
    if take is None:
        return False
    if region.handed == take.instead_of:
        yield from look_once(region)
        yield 0.02
        return True
    other, left = world.regions[target], take.until - region.clock()
    told = yield world.ask(region.name, target, lambda: take_order(other, take, left), ANSWER_SECONDS)
    if told:
        region.handed = take.instead_of
    yield world.weather.pace.brief_seconds
    return bool(told)


def take_order(region: SimulatedRegion, order: Order, seconds: float) -> bool:
    """An order that comes to a region; whether it is carried out from now on."""
    now = region.clock()
    order = dataclasses.replace(order, until=now + seconds)
    try:
        check_order(order, region.memory, region.report(), region.view, region.rules, region.order, now)
    except Rejected:
        return False
    region.order = order
    region.look_again()
    region.world.laws.ordered(region, order)
    region.world.trace(region, "is ordered", f"{order.verb} {order.target} {order.instead_of or ''}")
    return True


def _keep_mine(region: SimulatedRegion) -> Task:
    world, grant = region.world, region.held.grant
    if grant is None:
        return False
    answer = yield world.ask(region.name, STORE, lambda: world.store.keep(world.now, grant), world.ttl_seconds / 3)
    if answer is None:
        yield RETRY_SECONDS
        return False
    if isinstance(answer, LeaseLost):
        region.held.grant, region.view = None, answer.view
        return True
    region.held.grant = granted(region, answer, grant.asked_at)  # its time is not renewed
    region.view = LeaseView(answer.holder, answer.epoch)
    yield from change(region, reopening=True)
    return True


def _seal(region: SimulatedRegion, to: str) -> Task:
    world = region.world
    stop_feed(region)
    if region.memory.half == "replica":
        region.settle(len(region.spool))
    other = world.regions[to]
    chain: list[SimulatedBlock] | None = yield world.ask(region.name, to, lambda: list(other.journal), ANSWER_SECONDS)
    yield world.dice.random() * world.weather.action_seconds
    if chain is None or region.disk_fails or region.in_flight:
        yield RETRY_SECONDS
        return False
    at = fork(region.journal, chain)
    orphans = region.journal[at:]
    region.sealed_ever.update(orphans)
    world.trace(region, "sealed", f"{len(orphans)} blocks behind {at}, against {to}")
    yield from look_once(region)
    if not is_held_by(region.view, to):  # it may itself have been rewound by now: its chain proves nothing then
        return False
    region.seal = SealedOrphans(at)
    return True


def _rewind(region: SimulatedRegion) -> Task:
    world, seal = region.world, region.seal
    yield world.dice.random() * world.weather.action_seconds
    if seal is None or region.disk_fails or world.now < region.database_down_until:
        yield RETRY_SECONDS
        return False
    region.cut(seal.fork)
    region.seal = seal._replace(done=True)
    world.trace(region, "rewound", f"to {seal.fork}")
    return True
