"""One step, and what several states ask: whether this region is to stand, and whether another one has led. Pure."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from replicator.cluster.decisions.model import Action, DurableState, FailoverRules, Observation, Order
from replicator.cluster.decisions.states import RoleEvent, RoleState, moved


class Decision(NamedTuple):
    """``event`` with the memory after it, or ``action``, or neither: nothing is to be done now, because of ``why``."""

    memory: DurableState
    event: RoleEvent | None = None
    action: Action | None = None
    why: str = ""


def entering(memory: DurableState, event: RoleEvent, why: str = "") -> Decision:
    """The step that an event makes. Raises IllegalEvent where the state does not know it."""
    after = moved(memory.state, event)
    return Decision(dataclasses.replace(memory, state=after, why=why), event=event, why=why)


def promise(memory: DurableState, epoch: int) -> DurableState:
    """The memory after promising ``epoch``: nothing older is taken, acknowledged or written from then on."""
    return dataclasses.replace(memory, promised=max(memory.promised, epoch))


def has_led(seen: Observation, region: str, epoch: int) -> bool:
    """Whether that region's chain is the strand's: it has begun its epoch. Before, it may yet fetch from here what
    only looks like orphans."""
    heard = seen.peers.get(region)
    return heard is not None and heard.report.led >= epoch


def ordered_to_stand(memory: DurableState, seen: Observation, rules: FailoverRules) -> bool:
    """Whether an order makes this region stand now. Who gives one has been told before what speaks against it."""
    order = seen.order
    if order is None or seen.now >= order.until or seen.lease is None or memory.state is RoleState.PAUSED:
        return False
    if order.verb == "take":
        return is_held_as_said(seen, order)
    return order.verb == "failover" and (seen.lease.holder is None or not rules.exclusive)


def stand(memory: DurableState, seen: Observation) -> Decision:
    """The step that makes this region claim the next epoch."""
    assert seen.lease is not None
    epoch = max(seen.lease.epoch, memory.epoch, memory.promised, memory.led) + 1
    order = seen.order
    taken_at = order.sequence if order is not None and order.verb == "take" and is_held_as_said(seen, order) else None
    why = f"for epoch {epoch}" + (f", {order.verb}{said(order)}" if order is not None else "")
    return entering(dataclasses.replace(memory, epoch=epoch, closed_at=taken_at), RoleEvent.STAND, why)


def said(order: Order) -> str:
    """Why it was given, and by whom, as it is kept in the history."""
    return f" ({order.reason})" if order.reason else ""


def is_held_as_said(seen: Observation, order: Order) -> bool:
    """Whether the primary that hands over still holds the lease with the claim that it named."""
    return seen.holder is not None and seen.holder == order.instead_of
