"""A region that leads, or hands over. Its fence is closed before its lease can have ended elsewhere. Pure."""

from __future__ import annotations

import dataclasses

from replicator.cluster.failover.decisions.step import Step, entering, said
from replicator.cluster.failover.model import Close, HandOver, KeepMine, Memory, Open, Order, Report, Rules, Seen
from replicator.cluster.failover.states import Event, State


def primary(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """Keep open while the lease is usable; begin to hand over when that is ordered."""
    if not seen.holds:
        if seen.me.open:
            return Step(memory, action=Close(), why="the lease could not be renewed")
        if seen.granted is None:
            return entering(memory, Event.EXPIRED, "the lease could not be renewed in time")
        return Step(memory, why="the lease is to be renewed")
    if not seen.me.open:
        if not (rules.exclusive or seen.polled):
            return Step(memory, why="the other regions are asked first whether one of them leads by now")
        return Step(memory, action=Open(memory.epoch))
    order = seen.order
    if order is not None and order.verb == "switchover" and seen.now < order.until:
        if against := _against(seen.fresh(rules).get(order.target), seen.me, rules):
            return Step(memory, why=f"the switchover waits: {order.target} {against}")
        closing = dataclasses.replace(memory, closed_at=None, reopening=False, handed_to=order.target)
        return entering(closing, Event.HAND_OVER, f"to {order.target}{said(order)}")
    return Step(memory)


def _against(target: Report | None, me: Report, rules: Rules) -> str:
    """Why writers would be blocked in vain, or for long, if this region closed for that target now."""
    if target is None:
        return "does not answer"
    if target.blocked:
        return f"cannot be promoted: {target.blocked}"
    behind = me.sequence - target.applied
    return f"is {behind} blocks behind" if behind > rules.handover_blocks else ""


def demoting(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """Closed for a planned change: hand over, or open again."""
    holder, order = seen.holder, seen.order
    if holder is not None and holder.region != rules.me:
        return entering(memory, Event.HANDED_OVER, f"{holder.region} leads in epoch {holder.epoch}")
    if seen.me.open:
        return Step(memory, action=Close(moving=True), why="a switchover")
    if not seen.holds and seen.granted is None:
        return entering(memory, Event.EXPIRED, "the lease ran out during a switchover")
    if memory.reopening:
        return entering(
            dataclasses.replace(memory, reopening=False, closed_at=None, handed_to=""),
            Event.REOPEN,
            "the target did not take over in time",
        )
    if order is None or order.verb != "switchover" or seen.now >= order.until:
        return Step(memory, action=KeepMine(), why="the switchover is called off")
    if not seen.captured:
        return Step(memory, why="what was committed last is not in the journal yet")
    if memory.closed_at is None:
        return Step(dataclasses.replace(memory, closed_at=seen.me.sequence), why="closed")
    return _hand_over(memory, seen, rules, order)


def _hand_over(memory: Memory, seen: Seen, rules: Rules, order: Order) -> Step:
    assert memory.closed_at is not None
    target = seen.fresh(rules).get(order.target)
    if target is None:
        return Step(memory, why=f"{order.target} does not answer")
    behind = memory.closed_at - min(target.applied, target.sequence)
    if behind > 0:
        return Step(memory, why=f"{order.target} has {behind} blocks to apply")
    if (target.sequence, target.hash) != (seen.me.sequence, seen.me.hash):
        return Step(memory, why=f"{order.target} is not where this region is")
    return Step(memory, action=HandOver(order.target, memory.closed_at), why=f"{order.target} is to take over")


def superseded(memory: Memory, seen: Seen) -> Step:
    """Somebody else has a newer epoch: close, and lead no more."""
    if seen.me.open:
        return Step(memory, action=Close(), why="a newer epoch is known")
    if memory.state in (State.PRIMARY, State.DEMOTING):
        return entering(memory, Event.SUPERSEDED, "a newer epoch is known")
    return entering(memory, Event.LOST, "a newer epoch is known")
