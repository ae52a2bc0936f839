"""A region that leads, or hands over. Its fence is closed before its lease can have ended elsewhere. Pure."""

from __future__ import annotations

import dataclasses

from replicator.cluster.decisions.candidate import candidates
from replicator.cluster.decisions.model import (
    CloseFence,
    DurableState,
    FailoverRules,
    HandOver,
    KeepLease,
    MemberReport,
    Observation,
    OpenFence,
    Order,
)
from replicator.cluster.decisions.states import RoleEvent, RoleState
from replicator.cluster.decisions.step import Decision, entering, said


def primary(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Keep open while the lease is usable; begin to hand over when that is ordered."""
    if not seen.holds:
        if seen.me.open:
            return Decision(memory, action=CloseFence(), why="the lease could not be renewed")
        if seen.granted is None:
            return entering(memory, RoleEvent.EXPIRED, "the lease could not be renewed in time")
        return Decision(memory, why="the lease is to be renewed")
    if not seen.me.open:
        if not (rules.exclusive or seen.polled):
            return Decision(memory, why="the other regions are asked first whether one of them leads by now")
        return Decision(memory, action=OpenFence(memory.epoch))
    order = seen.order
    if order is not None and order.verb == "switchover" and seen.now < order.until:
        if against := _against(seen.fresh(rules).get(order.target), seen.me, rules):
            return Decision(memory, why=f"the switchover waits: {order.target} {against}")
        closing = dataclasses.replace(memory, closed_at=None, reopening=False, handed_to=order.target)
        return entering(closing, RoleEvent.HAND_OVER, f"to {order.target}{said(order)}")
    return Decision(memory)


def _against(target: MemberReport | None, me: MemberReport, rules: FailoverRules) -> str:
    """Why writers would be blocked in vain, or for long, if this region closed for that target now."""
    if target is None:
        return "does not answer"
    if target.blocked:
        return f"cannot be promoted: {target.blocked}"
    behind = me.sequence - target.applied
    return f"is {behind} blocks behind" if behind > rules.handover_blocks else ""


def successor(seen: Observation, rules: FailoverRules) -> str | None:
    """Whom a primary hands over to that is about to stop: the best of those for whom writers would not wait in vain, or
    for long. None: there is no such region now."""
    others = (report for report in candidates(seen, rules) if report.region != rules.me)
    found = next((report for report in others if not _against(report, seen.me, rules)), None)
    return None if found is None else found.region


def demoting(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Closed for a planned change: hand over, or open again."""
    holder, order = seen.holder, seen.order
    if holder is not None and holder.region != rules.me:
        return entering(memory, RoleEvent.HANDED_OVER, f"{holder.region} leads in epoch {holder.epoch}")
    if seen.me.open:
        return Decision(memory, action=CloseFence(moving=True), why="a switchover")
    if not seen.holds and seen.granted is None:
        return entering(memory, RoleEvent.EXPIRED, "the lease ran out during a switchover")
    if memory.reopening:
        return entering(
            dataclasses.replace(memory, reopening=False, closed_at=None, handed_to=""),
            RoleEvent.REOPEN,
            "the target did not take over in time",
        )
    if order is None or order.verb != "switchover" or seen.now >= order.until:
        return Decision(memory, action=KeepLease(), why="the switchover is called off")
    if not seen.captured:
        return Decision(memory, why="what was committed last is not in the journal yet")
    if memory.closed_at is None:
        return Decision(dataclasses.replace(memory, closed_at=seen.me.sequence), why="closed")
    return _hand_over(memory, seen, rules, order)


def _hand_over(memory: DurableState, seen: Observation, rules: FailoverRules, order: Order) -> Decision:
    assert memory.closed_at is not None
    target = seen.fresh(rules).get(order.target)
    if target is None:
        return Decision(memory, why=f"{order.target} does not answer")
    behind = memory.closed_at - min(target.applied, target.sequence)
    if behind > 0:
        return Decision(memory, why=f"{order.target} has {behind} blocks to apply")
    if (target.sequence, target.hash) != (seen.me.sequence, seen.me.hash):
        return Decision(memory, why=f"{order.target} is not where this region is")
    return Decision(memory, action=HandOver(order.target, memory.closed_at), why=f"{order.target} is to take over")


def superseded(memory: DurableState, seen: Observation) -> Decision:
    """Somebody else has a newer epoch: close, and lead no more."""
    if seen.me.open:
        return Decision(memory, action=CloseFence(), why="a newer epoch is known")
    if memory.state in (RoleState.PRIMARY, RoleState.DEMOTING):
        return entering(memory, RoleEvent.SUPERSEDED, "a newer epoch is known")
    return entering(memory, RoleEvent.LOST, "a newer epoch is known")
