"""A region on its way to leading: it claims the lease, has older epochs promised away, gets all there is, opens.

Guarantee: it goes on to open only under a usable lease, with every block that can have been acknowledged, applied; and
loses no more than is allowed. Pure.
"""

from __future__ import annotations

import dataclasses

from replicator.cluster.decisions.loss import refused
from replicator.cluster.decisions.model import (
    AskPromises,
    ClaimLease,
    DurableState,
    FailoverRules,
    FetchBlocks,
    FollowRegion,
    MemberReport,
    Observation,
    Promote,
    VerifyApplied,
)
from replicator.cluster.decisions.states import RoleEvent
from replicator.cluster.decisions.step import Decision, entering, is_held_as_said, promise


def claiming(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Ask for the lease, in place of its holder if that one hands over."""
    if seen.granted == memory.epoch and seen.holds:
        mine = memory.epoch if _nobody_between(memory) else memory.mine
        return entering(dataclasses.replace(promise(memory, memory.epoch), mine=mine), RoleEvent.GRANTED)
    holder, order = seen.holder, seen.order
    instead_of = None
    if memory.closed_at is not None and order is not None and order.verb == "take" and seen.now < order.until:
        instead_of = order.instead_of if is_held_as_said(seen, order) else None
    is_mine = holder is not None and holder.region == rules.me
    if memory.closed_at is not None and seen.lease is not None and instead_of is None and not is_mine:
        return entering(memory, RoleEvent.LOST, "the primary does not hand over any more")
    is_by_hand = not rules.exclusive and order is not None and order.verb == "failover"
    if holder is not None and not is_mine and instead_of is None and not is_by_hand:
        return entering(memory, RoleEvent.LOST, f"{holder.region} holds the lease in epoch {holder.epoch}")
    if seen.in_state > rules.step_seconds:
        return entering(memory, RoleEvent.LOST, "the lease store did not answer in time")
    if seen.lease is None:
        return Decision(memory, why="the lease store does not answer")
    return Decision(memory, action=ClaimLease(memory.epoch, instead_of))


def fencing(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Have the others take nothing of older epochs any more."""
    if not seen.holds:
        return entering(memory, RoleEvent.LOST, "the lease ran out")
    if memory.mine == memory.epoch:
        return entering(memory, RoleEvent.FENCED, "nobody else has led since this region did")
    if _is_take(memory, seen):
        return entering(memory, RoleEvent.FENCED, "the old primary has closed, and said so")
    promised = _promised(memory, seen, rules)
    missing = [name for name in rules.regions if name not in promised]
    if not missing:
        return entering(memory, RoleEvent.FENCED, "every region has promised")
    if not seen.asked and seen.in_state < rules.promise_seconds:
        return Decision(memory, action=AskPromises(memory.epoch), why=f"waits for the promise of {', '.join(missing)}")
    if not (rules.exclusive or (seen.order is not None and seen.order.primary_is_fenced)):
        why = f"nothing keeps {', '.join(missing)} from writing: say --primary-is-fenced if somebody has made sure"
        return entering(memory, RoleEvent.REFUSED, why)
    if not _lacks_promises(memory, seen, rules):
        return entering(memory, RoleEvent.FENCED, f"without the promise of {', '.join(missing)}")
    if seen.in_state > rules.step_seconds:
        why = f"{len(promised)} regions promised, {rules.promises_needed} are needed to have all that was acknowledged"
        return entering(memory, RoleEvent.REFUSED, why)
    return Decision(memory, action=AskPromises(memory.epoch), why=f"waits for the promise of {', '.join(missing)}")


def _promised(memory: DurableState, seen: Observation, rules: FailoverRules) -> dict[str, MemberReport]:
    """Those who take nothing older than our epoch any more, this region included."""
    reports = {name: heard.report for name, heard in seen.peers.items() if name in rules.regions}
    return {rules.me: seen.me} | {name: r for name, r in reports.items() if r.promised >= memory.epoch}


def _nobody_between(memory: DurableState) -> bool:
    """Whether no other region can have led between this one's last claim and the epoch that it claims."""
    return memory.epoch == max(memory.led, memory.mine) + 1


def _is_take(memory: DurableState, seen: Observation) -> bool:
    """Whether the lease was taken from a primary that had closed, with all that it had."""
    return memory.closed_at is not None and seen.me.sequence >= memory.closed_at


def _lacks_promises(memory: DurableState, seen: Observation, rules: FailoverRules) -> bool:
    """Whether an acknowledged block may be only where nobody has promised. A region that was counted may have said
    since that it has not got so far: it was started again."""
    if memory.mine == memory.epoch or _is_take(memory, seen):
        return False
    is_allowed = seen.order is not None and seen.order.allow_data_loss
    return not is_allowed and len(_promised(memory, seen, rules)) < rules.promises_needed


def draining(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Get what others have more, and have it settled, applied and verified."""
    if not seen.holds:
        return entering(memory, RoleEvent.LOST, "the lease ran out")
    me = seen.me
    if me.blocked:
        return entering(memory, RoleEvent.REFUSED, f"cannot be promoted: {me.blocked}")
    best = max(_promised(memory, seen, rules).values(), key=lambda report: report.rank)
    is_late = seen.in_state > rules.step_seconds
    if _lacks_promises(memory, seen, rules):
        if is_late:
            return entering(memory, RoleEvent.REFUSED, "a region that had promised does not answer any more")
        return Decision(memory, action=AskPromises(memory.epoch), why="a region that had promised was started again")
    if best.rank > me.rank:
        if seen.diverged or memory.half == "primary":  # which takes no blocks: it first has to come back as a replica
            return entering(memory, RoleEvent.REFUSED, f"{best.region} has more, on a chain that is not this one")
        if not is_late:
            return Decision(memory, action=FetchBlocks(best.region, best.sequence), why=f"{best.region} has more")
        if not (seen.order is not None and seen.order.allow_data_loss):
            return entering(memory, RoleEvent.REFUSED, f"{best.region} has more, and it did not come in time")
    if seen.following is not None:
        return Decision(memory, action=FollowRegion(None), why="all that was received is here")
    if not seen.settled and not (is_late and seen.order is not None and seen.order.allow_data_loss):
        if is_late:
            return entering(
                memory, RoleEvent.REFUSED, "what was received could not be brought into the journal in time"
            )
        return Decision(memory, why="what was received is not in the journal yet")
    if me.applied < me.sequence:
        if is_late:
            return entering(memory, RoleEvent.REFUSED, f"block {me.applied + 1} could not be applied in time")
        return Decision(memory, why=f"{me.sequence - me.applied} blocks are to be applied")
    lost = refused(seen, rules, seen.order)
    if lost:
        return entering(memory, RoleEvent.REFUSED, lost)
    if me.verified < me.sequence and memory.half == "replica" and seen.in_state < rules.verify_seconds:
        return Decision(memory, action=VerifyApplied(), why=f"{me.sequence - me.verified} blocks are to be verified")
    if me.verified < me.sequence and _is_take(memory, seen):
        return entering(memory, RoleEvent.REFUSED, f"blocks behind {me.verified} could not be verified in time")
    return entering(memory, RoleEvent.DRAINED, f"at sequence {me.sequence}, verified to {me.verified}")


def promoting(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Set the ledger up, then open."""
    if not seen.holds:
        return entering(memory, RoleEvent.LOST, "the lease ran out")
    if memory.half == "primary" and memory.led == memory.epoch:
        leads = dataclasses.replace(memory, changed_at=seen.now, closed_at=None, handed_to="")
        return entering(leads, RoleEvent.PROMOTED, f"in epoch {memory.epoch}")
    return Decision(memory, action=Promote(memory.epoch))
