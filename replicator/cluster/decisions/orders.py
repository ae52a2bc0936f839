"""What speaks against an order, told before it is taken; how long one counts; and the one that hands over. Pure."""

from __future__ import annotations

from replicator.cluster.decisions.model import DurableState, FailoverRules, HeardReport, MemberReport, Order
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import LeaseView, is_held_by
from replicator.errors import Rejected

SILENT_REPORTS = 2  # so many reports that did not come make a region silent
_STANDS = (RoleState.FOLLOWING, RoleState.SUSPECTING, RoleState.DEMOTED)


def check_order(
    order: Order,
    memory: DurableState,
    me: MemberReport,
    lease: LeaseView | None,
    rules: FailoverRules,
    present: Order | None,
    now: float,
    target: HeardReport | None = None,
) -> None:
    """Raise Rejected if this order cannot be carried out by this region now. ``target`` is what the region that a
    switchover names has said last."""
    present = present_order(present, now)
    if present is not None and present.verb != order.verb:
        cure = "wait until it has ended; replicator status CONFIG shows it"
        raise _refusal("busy", f"a {present.verb} is under way", rules.me, cure)
    match order.verb:
        case "switchover":
            _check_switchover(order, memory, rules, target, now)
        case "failover" | "take":
            _check_standing(order, memory, me, lease, rules)
        case "rejoin":
            if memory.state not in (RoleState.REJOINING, RoleState.HALTED):
                raise _refusal("not_now", f"this region is {memory.state}", rules.me, "it has nothing to rejoin with")


def present_order(order: Order | None, now: float) -> Order | None:
    """The order, as long as it counts."""
    return order if order is not None and now < order.until else None


def take_over(order: Order | None, lease: LeaseView | None, me: str, target: str, sequence: int) -> Order | None:
    """The order to ``target`` to claim the lease in this region's place, which closed at ``sequence``. None: there is
    nothing to hand over any more. It names the claim that is seen now, and is void once that has changed."""
    if order is None or lease is None or not is_held_by(lease, me):
        return None
    return Order("take", order.until, target=target, instead_of=lease.holder, sequence=sequence, reason=order.reason)


def _check_switchover(
    order: Order, memory: DurableState, rules: FailoverRules, target: HeardReport | None, now: float
) -> None:
    if memory.state is not RoleState.PRIMARY:
        cure = "give the order to the primary; replicator status CONFIG names it"
        raise _refusal("not_primary", f"this region is {memory.state}", rules.me, cure)
    if order.target not in rules.regions or order.target == rules.me:
        others = ", ".join(name for name in rules.regions if name != rules.me)
        raise _refusal("bad_target", f"{order.target!r} is none of the other regions", rules.me, f"one of {others}")
    if target is None or now - target.at > SILENT_REPORTS * rules.report_seconds:
        return  # it may answer in a moment: that is waited for, with writes open
    if against := unready(target.report):
        cure = "cure that, or name another region; nothing was changed"
        raise _refusal("target_not_ready", f"{order.target} cannot be promoted: {against}", rules.me, cure)


def unready(target: MemberReport) -> str:
    """What a switchover to this region would run into, and no waiting of a moment cures; empty if nothing does."""
    return target.blocked or ("" if target.able else "it does not reach the lease store, or its ledger")


def _check_standing(
    order: Order, memory: DurableState, me: MemberReport, lease: LeaseView | None, rules: FailoverRules
) -> None:
    if memory.state not in _STANDS:
        cure = (
            "replicator resume CONFIG"
            if memory.state is RoleState.PAUSED
            else "give the order to a region that follows"
        )
        raise _refusal("not_now", f"this region is {memory.state}", rules.me, cure)
    if me.blocked:
        raise _refusal("not_ready", f"it cannot be promoted: {me.blocked}", rules.me, "cure that, or name another")
    if order.allow_data_loss and not order.reason.strip():
        raise _refusal("no_reason", "a loss is decided for a reason", rules.me, "--reason says it")
    if order.verb == "take":
        return
    if lease is None:
        cure = "the lease store must answer, for it keeps two regions from writing"
        raise _refusal("no_lease_store", "the lease store does not answer", rules.me, cure)
    if max(memory.epoch, lease.epoch) == 0:
        cure = "start the region that is configured as primary: it begins"
        raise _refusal("never_led", "no region has ever led, and this one has nothing", rules.me, cure)
    if lease.holder is not None and (rules.exclusive or not order.primary_is_fenced):
        held = f"{lease.holder.region} holds the lease in epoch {lease.holder.epoch}"
        cure = "replicator switchover CONFIG --to REGION moves it; if that region is lost, wait for the lease to end"
        if not rules.exclusive:
            cure = "replicator switchover CONFIG --to REGION moves it; --primary-is-fenced says that somebody has made"
            cure += " sure of its end"
        raise _refusal("held", held, rules.me, cure)


def _refusal(reason: str, message: str, region: str, cure: str) -> Rejected:
    return Rejected(reason, message, status=409, place=f"region {region}", cure=cure)
