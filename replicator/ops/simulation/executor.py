"""A region's actions. Each takes time, may fail before or after its effect, and may be cut off anywhere by a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.cluster.decisions.model import (
    Action,
    AskPromises,
    ClaimLease,
    CloseFence,
    FetchBlocks,
    FollowRegion,
    HandOver,
    KeepLease,
    Observation,
    OpenFence,
    Order,
    Promote,
    ReleaseLease,
    ReportIntent,
    RewindToFork,
    SealOrphans,
    VerifyApplied,
)
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import Holder, LeaseView
from replicator.ops.simulation.chain import SimulatedBlock, fork
from replicator.ops.simulation.faults import STORE
from replicator.ops.simulation.region import SealedOrphans
from replicator.ops.simulation.schedule import Reply, Task
from replicator.ops.simulation.tasks import change, look_once, promised, take_report, unfollow

if TYPE_CHECKING:
    from replicator.ops.simulation.region import SimulatedRegion

RETRY_SECONDS = 0.2
ORDERABLE = (RoleState.FOLLOWING, RoleState.SUSPECTING, RoleState.DEMOTED)


def do(region: SimulatedRegion, action: Action, seen: Observation) -> Task:
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
            done = region.following == to or (yield from _follow(region, to))
            yield 0.05
            return done
        case ClaimLease(epoch, instead_of):
            return (yield from _claim(region, epoch, instead_of))
        case AskPromises(epoch):
            return (yield from _ask(region, epoch))
        case VerifyApplied():
            yield 0.05
            if dice.random() < 0.8:
                region.verified = max(region.verified, region.applied)
        case Promote(epoch):
            return (yield from _promote(region, epoch))
        case OpenFence(epoch):
            yield dice.random() * 0.05
            region.permit(epoch)
        case CloseFence():
            yield dice.random() * 0.05
            region.permit_until = min(region.permit_until, region.clock())
            while region.in_flight:
                yield 0.01
        case HandOver(target, sequence):
            return (yield from _hand_over(region, target, sequence))
        case KeepLease():
            return (yield from _keep_mine(region))
        case ReleaseLease():
            grant, region.grant = region.grant, None
            if grant is not None:
                yield world.ask(region, STORE, lambda: world.store.release(world.now, grant), world.ttl_seconds / 3)
            yield from look_once(region)
        case SealOrphans(to):
            return (yield from _seal(region, to))
        case RewindToFork():
            return (yield from _rewind(region, seen))
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
    at = region.clock()  # before the store is asked
    claim = yield world.ask(
        region,
        STORE,
        lambda: world.store.claim(world.now, region.name, epoch, instead_of) or False,
        world.ttl_seconds / 3,
    )
    if claim is None:
        yield RETRY_SECONDS
        return False
    if claim is False:
        yield from look_once(region)
    else:
        region.grant, region.asked_at = claim, at
        region.view = LeaseView(claim, epoch)
    return bool(claim)


def _ask(region: SimulatedRegion, epoch: int) -> Task:
    world = region.world
    at = region.clock()
    replies: list[Reply] = []
    for name in region.rules.regions:
        if name != region.name:
            reply = Reply(world.now + 1.5)
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
    limit = world.now + 1.5
    while len(box) < len(replies) and world.now < limit:
        yield 0.03
        for report in box:
            take_report(region, report, at)  # type: ignore[arg-type]
    for reply in replies:
        reply.resume = None
    region.asked = epoch
    return True


def _promote(region: SimulatedRegion, epoch: int) -> Task:
    world = region.world
    region.following = None
    region.session += 1
    yield world.dice.random() * world.weather.action_seconds
    if region.disk_fails or world.now < region.database_down_until:
        yield RETRY_SECONDS
        return False
    head = region.head
    if head is None or head.epoch < epoch:
        world.append(region, epoch, "epoch")
    yield world.dice.random() * world.weather.action_seconds
    yield from change(region, half="primary", led=epoch)
    region.applied = region.verified = len(region.journal)
    return True


def _hand_over(region: SimulatedRegion, target: str, sequence: int) -> Task:
    world, order = region.world, region.order
    if region.grant is None or order is None:
        return False
    if region.handed == region.grant:
        yield from look_once(region)
        yield 0.02
        return True
    take = Order("take", 0.0, target=target, instead_of=region.grant, sequence=sequence)
    left = order.until - region.clock()
    other = world.regions[target]
    told = yield world.ask(region, target, lambda: take_order(other, take, left), 1.5)
    if told:
        region.handed = take.instead_of
    yield 0.05
    return bool(told)


def take_order(region: SimulatedRegion, order: Order, seconds: float) -> bool:
    """An order that comes to a region; whether it is carried out from now on."""
    now = region.clock()
    busy = region.order is not None and region.order.verb != order.verb and now < region.order.until
    state = region.memory.state
    fits = {
        "take": state in ORDERABLE and not region.report().blocked,
        "failover": state in ORDERABLE and not region.report().blocked,
        "switchover": state is RoleState.PRIMARY,
        "rejoin": state in (RoleState.REJOINING, RoleState.HALTED),
    }[order.verb]
    if order.verb == "failover":
        fits = fits and region.view is not None and region.view.holder is None
    if busy or not fits:
        return False
    region.order = order.__class__(
        order.verb,
        now + seconds,
        order.target,
        order.instead_of,
        order.sequence,
        order.allow_data_loss,
        order.primary_is_fenced,
        order.reason,
    )
    region.world.trace(region, "is ordered", f"{order.verb} {order.target} {order.instead_of or ''}")
    return True


def _keep_mine(region: SimulatedRegion) -> Task:
    world, grant = region.world, region.grant
    if grant is None:
        return False
    kept = yield world.ask(region, STORE, lambda: world.store.keep(world.now, grant) or False, world.ttl_seconds / 3)
    if kept is None:
        yield RETRY_SECONDS
        return False
    if region.grant != grant:
        return True
    region.grant = kept or None
    if kept:
        region.view = LeaseView(kept, kept.epoch)
        yield from change(region, reopening=True)
    else:
        yield from look_once(region)
    return True


def _seal(region: SimulatedRegion, to: str) -> Task:
    world = region.world
    region.following = None
    region.session += 1
    if region.memory.half == "replica":
        region.settle(len(region.spool))
    other = world.regions[to]
    chain: list[SimulatedBlock] | None = yield world.ask(region, to, lambda: list(other.journal), 1.5)
    yield world.dice.random() * world.weather.action_seconds
    if chain is None or region.disk_fails or region.in_flight:
        yield RETRY_SECONDS
        return False
    at = fork(region.journal, chain)
    orphans = tuple(region.journal[at:])
    region.seal = SealedOrphans(at, orphans)
    region.sealed_ever.update(orphans)
    world.trace(region, "sealed", f"{len(orphans)} blocks behind {at}, against {to}")
    return True


def _rewind(region: SimulatedRegion, seen: Observation) -> Task:
    world, seal = region.world, region.seal
    yield world.dice.random() * world.weather.action_seconds
    if seal is None or not region.is_sealed:
        world.checks.refused_rewind(region, seen)
        yield RETRY_SECONDS
        return False
    if region.disk_fails or world.now < region.database_down_until:
        yield RETRY_SECONDS
        return False
    region.cut(seal.fork)
    region.seal = seal._replace(done=True)
    world.trace(region, "rewound", f"to {seal.fork}")
    return True
