"""A region that leads no more: it leads again if nobody else has, or comes back as a replica.

Guarantee: nothing is undone before it is sealed.

Pure.
"""

from __future__ import annotations

import dataclasses

from replicator.cluster.decisions.candidate import my_turn
from replicator.cluster.decisions.detector import Level, signals
from replicator.cluster.decisions.loss import refused
from replicator.cluster.decisions.model import (
    CloseFence,
    DurableState,
    FailoverRules,
    Observation,
    ReleaseLease,
    RewindToFork,
    SealOrphans,
)
from replicator.cluster.decisions.states import LEADING, RoleEvent, RoleState
from replicator.cluster.decisions.step import Decision, entering, has_led, ordered_to_stand, stand


def demoted(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Closed, and without a lease: lead again, follow, or come back."""
    if seen.me.open:
        return Decision(memory, action=CloseFence(), why="this region does not lead any more")
    holder = seen.holder
    if holder is not None and holder.region != rules.me:
        leader = seen.fresh(rules).get(holder.region)
        if leader is not None and leader.state is RoleState.PRIMARY:
            return entering(memory, RoleEvent.REJOIN, f"{holder.region} leads in epoch {holder.epoch}")
        return Decision(memory, why=f"{holder.region} holds the lease, and does not lead yet")
    if memory.half == "replica" and seen.me.head_epoch < memory.epoch and seen.granted is None:
        return entering(_without_claim(memory), RoleEvent.RETURN)
    if seen.granted is not None:
        return Decision(memory, action=ReleaseLease(), why="what is left of a lease is given back")
    if seen.lease is None:
        return Decision(memory, why="the lease store does not answer")
    if memory.half == "primary" and seen.me.blocked:  # it would claim, and keep all others from it, for nothing
        return Decision(memory, why=seen.me.blocked)
    if _may_lead_again(memory, seen, rules):
        if not seen.me.whole and seen.me.blocked:  # a lease would keep everybody waiting for what it cannot give
            return Decision(memory, why=seen.me.blocked)
        return stand(memory, seen)
    return Decision(memory, why="nobody leads; another region may have to, or replicator failover CONFIG")


def _without_claim(memory: DurableState) -> DurableState:
    """The memory without an epoch that was claimed and not granted: somebody else may lead in an older one."""
    return dataclasses.replace(memory, epoch=min(memory.epoch, memory.promised))


def _may_lead_again(memory: DurableState, seen: Observation, rules: FailoverRules) -> bool:
    """The last primary stands again at once: nobody has led since. So does the first one of all, and one whose
    switchover came to nothing: whom it handed over to has let go."""
    assert seen.lease is not None
    if ordered_to_stand(memory, seen, rules):
        return True
    nobody_since = max(seen.lease.epoch, memory.promised) <= max(memory.led, memory.mine)
    if memory.half == "primary" and (nobody_since or _has_let_go(memory, seen, rules)):
        return True
    if memory.half == "primary" and any(report.rank > seen.me.rank for report in seen.fresh(rules).values()):
        return False  # it could not get what the other has more: a primary's ledger follows nobody
    is_lost = signals(seen, rules).level is Level.RED and not refused(seen, rules, None)
    return rules.mode == "automatic" and is_lost and my_turn(seen, rules, seen.in_state)


def _has_let_go(memory: DurableState, seen: Observation, rules: FailoverRules) -> bool:
    """Whether the region that this one handed over to says that it did not lead, and nobody else can have."""
    assert seen.lease is not None
    target = seen.fresh(rules).get(memory.handed_to)
    is_next = max(seen.lease.epoch, memory.promised) <= memory.led + 1
    return is_next and target is not None and target.led <= memory.led and target.state not in LEADING


def rejoining(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Seal what only this region has, then rewind it."""
    holder = seen.holder
    if seen.rewound:
        follower = dataclasses.replace(_without_claim(memory), half="replica", closed_at=None, handed_to="")
        back = dataclasses.replace(follower, approved=False, undo=())
        return entering(back, RoleEvent.REWOUND)
    if seen.stuck:
        return entering(memory, RoleEvent.HALT, seen.stuck)
    if not seen.sealed:
        if seen.lease is not None and holder is None and memory.state is RoleState.REJOINING:
            return entering(memory, RoleEvent.LOST, "there is no primary to come back to")
        if holder is None or holder.region == rules.me or not has_led(seen, holder.region, holder.epoch):
            return Decision(memory, why="waits for a primary to compare with")
        return Decision(memory, action=SealOrphans(holder.region))
    ordered = seen.order is not None and seen.order.verb == "rejoin"
    if rules.rejoin == "manual" and not (memory.approved or ordered):
        return Decision(
            memory, why="the orphans are sealed; replicator rejoin CONFIG goes on when a person has looked at them"
        )
    undo = seen.order.undo if ordered and seen.order is not None else memory.undo
    return Decision(dataclasses.replace(memory, approved=True, undo=undo or memory.undo), action=RewindToFork())


def halted(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """A person is needed."""
    if seen.me.open:
        return Decision(memory, action=CloseFence())
    if seen.order is not None and seen.order.verb == "rejoin":
        # The order ends here: what it has said is kept.
        let = dataclasses.replace(memory, approved=True, undo=seen.order.undo or memory.undo)
        return entering(let, RoleEvent.RESUME)
    return Decision(memory, why=memory.why)
