"""A region on its way to leading: it claims the lease, has older epochs promised away, gets all there is, opens.

Guarantee: it goes on to open only under a usable lease, with every block that can have been acknowledged, applied; and
loses no more than is allowed. Pure.
"""

from __future__ import annotations

import dataclasses

from replicator.cluster.failover.decisions.step import Step, entering, is_held_as_said, promise
from replicator.cluster.failover.loss import refused
from replicator.cluster.failover.model import (
    AskPromises,
    Claim,
    Fetch,
    Follow,
    Memory,
    Promote,
    Prove,
    Report,
    Rules,
    Seen,
)
from replicator.cluster.failover.states import Event


def claiming(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """Ask for the lease, in place of its holder if that one hands over."""
    if seen.granted == memory.epoch and seen.holds:
        mine = memory.epoch if _nobody_between(memory) else memory.mine
        return entering(dataclasses.replace(promise(memory, memory.epoch), mine=mine), Event.GRANTED)
    holder, order = seen.holder, seen.order
    instead_of = None
    if memory.closed_at is not None and order is not None and order.verb == "take" and seen.now < order.until:
        instead_of = order.instead_of if is_held_as_said(seen, order) else None
    is_mine = holder is not None and holder.region == rules.me
    if memory.closed_at is not None and seen.lease is not None and instead_of is None and not is_mine:
        return entering(memory, Event.LOST, "the primary does not hand over any more")
    is_by_hand = not rules.exclusive and order is not None and order.verb == "failover"
    if holder is not None and not is_mine and instead_of is None and not is_by_hand:
        return entering(memory, Event.LOST, f"{holder.region} holds the lease in epoch {holder.epoch}")
    if seen.in_state > rules.step_seconds:
        return entering(memory, Event.LOST, "the lease store did not answer in time")
    if seen.lease is None:
        return Step(memory, why="the lease store does not answer")
    return Step(memory, action=Claim(memory.epoch, instead_of))


def fencing(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """Have the others take nothing of older epochs any more."""
    if not seen.holds:
        return entering(memory, Event.LOST, "the lease ran out")
    if memory.mine == memory.epoch:
        return entering(memory, Event.FENCED, "nobody else has led since this region did")
    if _is_take(memory, seen):
        return entering(memory, Event.FENCED, "the old primary has closed, and said so")
    promised = _promised(memory, seen, rules)
    missing = [name for name in rules.regions if name not in promised]
    if not missing:
        return entering(memory, Event.FENCED, "every region has promised")
    if not seen.asked and seen.in_state < rules.promise_seconds:
        return Step(memory, action=AskPromises(memory.epoch), why=f"waits for the promise of {', '.join(missing)}")
    if not (rules.exclusive or (seen.order is not None and seen.order.primary_is_fenced)):
        why = f"nothing keeps {', '.join(missing)} from writing: say --primary-is-fenced if somebody has made sure"
        return entering(memory, Event.REFUSED, why)
    if not _lacks_promises(memory, seen, rules):
        return entering(memory, Event.FENCED, f"without the promise of {', '.join(missing)}")
    if seen.in_state > rules.step_seconds:
        why = f"{len(promised)} regions promised, {rules.promises_needed} are needed to have all that was acknowledged"
        return entering(memory, Event.REFUSED, why)
    return Step(memory, action=AskPromises(memory.epoch), why=f"waits for the promise of {', '.join(missing)}")


def _promised(memory: Memory, seen: Seen, rules: Rules) -> dict[str, Report]:
    """Those who take nothing older than our epoch any more, this region included."""
    reports = {name: heard.report for name, heard in seen.peers.items() if name in rules.regions}
    return {rules.me: seen.me} | {name: r for name, r in reports.items() if r.promised >= memory.epoch}


def _nobody_between(memory: Memory) -> bool:
    """Whether no other region can have led between this one's last claim and the epoch that it claims."""
    return memory.epoch == max(memory.led, memory.mine) + 1


def _is_take(memory: Memory, seen: Seen) -> bool:
    """Whether the lease was taken from a primary that had closed, with all that it had."""
    return memory.closed_at is not None and seen.me.sequence >= memory.closed_at


def _lacks_promises(memory: Memory, seen: Seen, rules: Rules) -> bool:
    """Whether an acknowledged block may be only where nobody has promised. A region that was counted may have said
    since that it has not got so far: it was started again."""
    if memory.mine == memory.epoch or _is_take(memory, seen):
        return False
    is_allowed = seen.order is not None and seen.order.allow_data_loss
    return not is_allowed and len(_promised(memory, seen, rules)) < rules.promises_needed


def draining(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """Get what others have more, and have it settled, applied and verified."""
    if not seen.holds:
        return entering(memory, Event.LOST, "the lease ran out")
    me = seen.me
    if me.blocked:
        return entering(memory, Event.REFUSED, f"cannot be promoted: {me.blocked}")
    best = max(_promised(memory, seen, rules).values(), key=lambda report: report.rank)
    is_late = seen.in_state > rules.step_seconds
    if _lacks_promises(memory, seen, rules):
        if is_late:
            return entering(memory, Event.REFUSED, "a region that had promised does not answer any more")
        return Step(memory, action=AskPromises(memory.epoch), why="a region that had promised was started again")
    if best.rank > me.rank:
        if seen.diverged or memory.half == "primary":  # which takes no blocks: it first has to come back as a replica
            return entering(memory, Event.REFUSED, f"{best.region} has more, on a chain that is not this one")
        if not is_late:
            return Step(memory, action=Fetch(best.region, best.sequence), why=f"{best.region} has more")
        if not (seen.order is not None and seen.order.allow_data_loss):
            return entering(memory, Event.REFUSED, f"{best.region} has more, and it did not come in time")
    if seen.following is not None:
        return Step(memory, action=Follow(None), why="all that was received is here")
    if not seen.settled and not (is_late and seen.order is not None and seen.order.allow_data_loss):
        if is_late:
            return entering(memory, Event.REFUSED, "what was received could not be brought into the journal in time")
        return Step(memory, why="what was received is not in the journal yet")
    if me.applied < me.sequence:
        if is_late:
            return entering(memory, Event.REFUSED, f"block {me.applied + 1} could not be applied in time")
        return Step(memory, why=f"{me.sequence - me.applied} blocks are to be applied")
    lost = refused(seen, rules, seen.order)
    if lost:
        return entering(memory, Event.REFUSED, lost)
    if me.verified < me.sequence and memory.half == "replica" and seen.in_state < rules.verify_seconds:
        return Step(memory, action=Prove(), why=f"{me.sequence - me.verified} blocks are to be verified")
    if me.verified < me.sequence and _is_take(memory, seen):
        return entering(memory, Event.REFUSED, f"blocks behind {me.verified} could not be verified in time")
    return entering(memory, Event.DRAINED, f"at sequence {me.sequence}, verified to {me.verified}")


def promoting(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """Set the ledger up, then open."""
    if not seen.holds:
        return entering(memory, Event.LOST, "the lease ran out")
    if memory.half == "primary" and memory.led == memory.epoch:
        leads = dataclasses.replace(memory, changed_at=seen.now, closed_at=None, handed_to="")
        return entering(leads, Event.PROMOTED, f"in epoch {memory.epoch}")
    return Step(memory, action=Promote(memory.epoch))
