"""What a region does next: one step, from what it remembers and what it sees.

Guarantees, each checked by the simulation:

    one primary      a fence is opened only under a usable lease, and closed before the lease can have ended elsewhere
    nothing lost     a region leads only after so many have promised its epoch that one of them has every acknowledged
                     block, and after it has fetched what they have more
    nothing undone   blocks are rewound only after they are sealed

The idea is a controller that looks, does one thing, and looks again (``Step``): there is no script to be interrupted.
A step is an event, which changes the state (and is made durable before anything else is done), or an action, or nothing
for now. Whatever was interrupted is found again by looking.

Pure: no clock, no I/O. Promises with growing epochs are those of Paxos (Lamport, 1998); that the end of a chain tells
who has more is Raft's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from replicator.failover.candidate import my_turn
from replicator.failover.detector import Level, signals
from replicator.failover.losing import refused
from replicator.failover.seen import (
    Action,
    AskPromises,
    Claim,
    Close,
    Fetch,
    Follow,
    HandOver,
    KeepMine,
    Memory,
    Open,
    Order,
    Promote,
    Prove,
    Release,
    Report,
    Rewind,
    Rules,
    Seal,
    Seen,
    Tell,
)
from replicator.failover.states import LEADING, Event, State, moved


class Step(NamedTuple):
    """``event`` with the memory after it, or ``action``, or neither: nothing is to be done now, because of ``why``."""

    memory: Memory
    event: Event | None = None
    action: Action | None = None
    why: str = ""


def decide(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """The next step of this region."""
    newest = max(memory.epoch, memory.promised, seen.lease.epoch if seen.lease else 0)
    handed_over = memory.state is State.DEMOTING and seen.holder is not None and seen.holder.region != rules.me
    if memory.state in LEADING and newest > memory.epoch and not handed_over:
        return _superseded(memory, seen)
    return _BY_STATE[memory.state](memory, seen, rules)


def promise(memory: Memory, epoch: int) -> Memory:
    """The memory after promising ``epoch``: nothing older is taken, acknowledged or written from then on."""
    return dataclasses.replace(memory, promised=max(memory.promised, epoch))


# -- replicas


def _following(memory: Memory, seen: Seen, rules: Rules) -> Step:
    holder = seen.holder
    if _ordered_to_stand(memory, seen, rules):
        return _stand(memory, seen)
    if holder is not None and holder.region != rules.me:
        return _follow(memory, seen, holder.region, holder.epoch)
    if seen.lease is not None and max(seen.lease.epoch, memory.epoch) == 0:
        return Step(memory, why="nobody has ever led: the region that is configured as primary begins")
    found = signals(seen, rules)
    if found.level is Level.RED and memory.state is not State.PAUSED:
        return _event(memory, Event.SUSPECT, found.why)
    return Step(memory, why=found.why)


def _follow(memory: Memory, seen: Seen, region: str, epoch: int) -> Step:
    if epoch < memory.promised:
        if seen.following is not None:
            return Step(memory, action=Follow(None), why=f"epoch {memory.promised} is promised to another region")
        return Step(memory, why=f"{region} holds the lease in epoch {epoch}, and {memory.promised} is promised")
    if epoch > memory.epoch:
        changed = dataclasses.replace(memory, epoch=epoch, promised=max(epoch, memory.promised), changed_at=seen.now)
        return Step(changed, action=Follow(region), why=f"{region} leads in epoch {epoch}")
    if seen.following != region:
        return Step(memory, action=Follow(region), why=f"{region} holds the lease")
    if seen.diverged and _has_led(seen, region, epoch):
        return _event(memory, Event.DIVERGED, f"this chain is not that of {region}")
    return Step(memory)


def _has_led(seen: Seen, region: str, epoch: int) -> bool:
    """Whether that region's chain is the strand's: it has begun its epoch. Before, it may yet fetch from here what
    only looks like orphans."""
    heard = seen.peers.get(region)
    return heard is not None and heard.report.led >= epoch


def _suspecting(memory: Memory, seen: Seen, rules: Rules) -> Step:
    found = signals(seen, rules)
    if _ordered_to_stand(memory, seen, rules):
        return _stand(memory, seen)
    if found.level is not Level.RED:
        return _event(memory, Event.CLEAR, found.why or "the primary is there again")
    if rules.mode == "manual":
        return Step(memory, why=f"{found.why}; replicator failover promotes by hand")
    quiet_until = -1.0 if memory.changed_at is None else memory.changed_at + rules.quiet_seconds
    if memory.changed_at is not None and memory.changed_at <= seen.now < quiet_until:
        return Step(memory, why=f"{found.why}; the primary has changed {seen.now - memory.changed_at:.0f} s ago: quiet")
    if not my_turn(seen, rules, seen.in_state):
        return Step(memory, why=f"{found.why}; {seen.me.blocked or 'another region has more'}")
    lost = refused(seen, rules, None)
    if rules.mode == "shadow":
        return Step(memory, action=Tell(f"would stand for primary: {found.why}; {lost or 'nothing known is lost'}"))
    if lost:
        return Step(memory, why=lost)
    return _stand(memory, seen)


def _paused(memory: Memory, seen: Seen, rules: Rules) -> Step:
    return _following(memory, dataclasses.replace(seen, order=None), rules)


def _ordered_to_stand(memory: Memory, seen: Seen, rules: Rules) -> bool:
    """Whether an order makes this region stand now. Who gives one has been told before what speaks against it."""
    order = seen.order
    if order is None or seen.now >= order.until or seen.lease is None or memory.state is State.PAUSED:
        return False
    if order.verb == "take":
        return _is_held_as_said(seen, order)
    return order.verb == "failover" and (seen.lease.holder is None or not rules.exclusive)


def _stand(memory: Memory, seen: Seen) -> Step:
    assert seen.lease is not None
    epoch = max(seen.lease.epoch, memory.epoch, memory.promised, memory.led) + 1
    order = seen.order
    taken_at = order.sequence if order is not None and order.verb == "take" and _is_held_as_said(seen, order) else None
    why = f"for epoch {epoch}" + (f", {order.verb}{_said(order)}" if order is not None else "")
    return _event(dataclasses.replace(memory, epoch=epoch, closed_at=taken_at), Event.STAND, why)


def _said(order: Order) -> str:
    """Why it was given, and by whom, as it is kept in the history."""
    return f" ({order.reason})" if order.reason else ""


def _is_held_as_said(seen: Seen, order: Order) -> bool:
    """Whether the primary that hands over still holds the lease with the claim that it named."""
    return seen.holder is not None and seen.holder == order.instead_of


# -- promotion: claiming, fencing, draining, promoting


def _claiming(memory: Memory, seen: Seen, rules: Rules) -> Step:
    if seen.granted == memory.epoch and seen.holds:
        mine = memory.epoch if _nobody_between(memory) else memory.mine
        return _event(dataclasses.replace(promise(memory, memory.epoch), mine=mine), Event.GRANTED)
    holder, order = seen.holder, seen.order
    instead_of = None
    if memory.closed_at is not None and order is not None and order.verb == "take" and seen.now < order.until:
        instead_of = order.instead_of if _is_held_as_said(seen, order) else None
    is_mine = holder is not None and holder.region == rules.me
    if memory.closed_at is not None and seen.lease is not None and instead_of is None and not is_mine:
        return _event(memory, Event.LOST, "the primary does not hand over any more")
    is_by_hand = not rules.exclusive and order is not None and order.verb == "failover"
    if holder is not None and not is_mine and instead_of is None and not is_by_hand:
        return _event(memory, Event.LOST, f"{holder.region} holds the lease in epoch {holder.epoch}")
    if seen.in_state > rules.step_seconds:
        return _event(memory, Event.LOST, "the lease store did not answer in time")
    if seen.lease is None:
        return Step(memory, why="the lease store does not answer")
    return Step(memory, action=Claim(memory.epoch, instead_of))


def _fencing(memory: Memory, seen: Seen, rules: Rules) -> Step:
    if not seen.holds:
        return _event(memory, Event.LOST, "the lease ran out")
    if memory.mine == memory.epoch:
        return _event(memory, Event.FENCED, "nobody else has led since this region did")
    if _is_take(memory, seen):
        return _event(memory, Event.FENCED, "the old primary has closed, and said so")
    promised = _promised(memory, seen, rules)
    missing = [name for name in rules.regions if name not in promised]
    if not missing:
        return _event(memory, Event.FENCED, "every region has promised")
    if not seen.asked and seen.in_state < rules.promise_seconds:
        return Step(memory, action=AskPromises(memory.epoch), why=f"waits for the promise of {', '.join(missing)}")
    if not (rules.exclusive or (seen.order is not None and seen.order.primary_is_fenced)):
        why = f"nothing keeps {', '.join(missing)} from writing: say --primary-is-fenced if somebody has made sure"
        return _event(memory, Event.REFUSED, why)
    if not _lacks_promises(memory, seen, rules):
        return _event(memory, Event.FENCED, f"without the promise of {', '.join(missing)}")
    if seen.in_state > rules.step_seconds:
        why = f"{len(promised)} regions promised, {rules.promises_needed} are needed to have all that was acknowledged"
        return _event(memory, Event.REFUSED, why)
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


def _draining(memory: Memory, seen: Seen, rules: Rules) -> Step:
    if not seen.holds:
        return _event(memory, Event.LOST, "the lease ran out")
    me = seen.me
    if me.blocked:
        return _event(memory, Event.REFUSED, f"cannot be promoted: {me.blocked}")
    best = max(_promised(memory, seen, rules).values(), key=lambda report: report.rank)
    is_late = seen.in_state > rules.step_seconds
    if _lacks_promises(memory, seen, rules):
        if is_late:
            return _event(memory, Event.REFUSED, "a region that had promised does not answer any more")
        return Step(memory, action=AskPromises(memory.epoch), why="a region that had promised was started again")
    if best.rank > me.rank:
        if seen.diverged or memory.half == "primary":  # which takes no blocks: it first has to come back as a replica
            return _event(memory, Event.REFUSED, f"{best.region} has more, on a chain that is not this one")
        if not is_late:
            return Step(memory, action=Fetch(best.region, best.sequence), why=f"{best.region} has more")
        if not (seen.order is not None and seen.order.allow_data_loss):
            return _event(memory, Event.REFUSED, f"{best.region} has more, and it did not come in time")
    if seen.following is not None:
        return Step(memory, action=Follow(None), why="all that was received is here")
    if not seen.settled and not (is_late and seen.order is not None and seen.order.allow_data_loss):
        if is_late:
            return _event(memory, Event.REFUSED, "what was received could not be brought into the journal in time")
        return Step(memory, why="what was received is not in the journal yet")
    if me.applied < me.sequence:
        if is_late:
            return _event(memory, Event.REFUSED, f"block {me.applied + 1} could not be applied in time")
        return Step(memory, why=f"{me.sequence - me.applied} blocks are to be applied")
    lost = refused(seen, rules, seen.order)
    if lost:
        return _event(memory, Event.REFUSED, lost)
    if me.verified < me.sequence and memory.half == "replica" and seen.in_state < rules.verify_seconds:
        return Step(memory, action=Prove(), why=f"{me.sequence - me.verified} blocks are to be verified")
    if me.verified < me.sequence and _is_take(memory, seen):
        return _event(memory, Event.REFUSED, f"blocks behind {me.verified} could not be verified in time")
    return _event(memory, Event.DRAINED, f"at sequence {me.sequence}, verified to {me.verified}")


def _promoting(memory: Memory, seen: Seen, rules: Rules) -> Step:
    if not seen.holds:
        return _event(memory, Event.LOST, "the lease ran out")
    if memory.half == "primary" and memory.led == memory.epoch:
        leads = dataclasses.replace(memory, changed_at=seen.now, closed_at=None, handed_to="")
        return _event(leads, Event.PROMOTED, f"in epoch {memory.epoch}")
    return Step(memory, action=Promote(memory.epoch))


# -- primaries


def _primary(memory: Memory, seen: Seen, rules: Rules) -> Step:
    if not seen.holds:
        if seen.me.open:
            return Step(memory, action=Close(), why="the lease could not be renewed")
        if seen.granted is None:
            return _event(memory, Event.EXPIRED, "the lease could not be renewed in time")
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
        return _event(closing, Event.HAND_OVER, f"to {order.target}{_said(order)}")
    return Step(memory)


def _against(target: Report | None, me: Report, rules: Rules) -> str:
    """Why writers would be blocked in vain, or for long, if this region closed for that target now."""
    if target is None:
        return "does not answer"
    if target.blocked:
        return f"cannot be promoted: {target.blocked}"
    behind = me.sequence - target.applied
    return f"is {behind} blocks behind" if behind > rules.handover_blocks else ""


def _demoting(memory: Memory, seen: Seen, rules: Rules) -> Step:
    holder, order = seen.holder, seen.order
    if holder is not None and holder.region != rules.me:
        return _event(memory, Event.HANDED_OVER, f"{holder.region} leads in epoch {holder.epoch}")
    if seen.me.open:
        return Step(memory, action=Close(moving=True), why="a switchover")
    if not seen.holds and seen.granted is None:
        return _event(memory, Event.EXPIRED, "the lease ran out during a switchover")
    if memory.reopening:
        return _event(
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


def _superseded(memory: Memory, seen: Seen) -> Step:
    if seen.me.open:
        return Step(memory, action=Close(), why="a newer epoch is known")
    if memory.state in (State.PRIMARY, State.DEMOTING):
        return _event(memory, Event.SUPERSEDED, "a newer epoch is known")
    return _event(memory, Event.LOST, "a newer epoch is known")


# -- coming back


def _demoted(memory: Memory, seen: Seen, rules: Rules) -> Step:
    if seen.me.open:
        return Step(memory, action=Close(), why="this region does not lead any more")
    holder = seen.holder
    if holder is not None and holder.region != rules.me:
        leader = seen.fresh(rules).get(holder.region)
        if leader is not None and leader.state is State.PRIMARY:
            return _event(memory, Event.REJOIN, f"{holder.region} leads in epoch {holder.epoch}")
        return Step(memory, why=f"{holder.region} holds the lease, and does not lead yet")
    if memory.half == "replica" and seen.me.head_epoch < memory.epoch and seen.granted is None:
        return _event(_without_claim(memory), Event.RETURN)
    if seen.granted is not None:
        return Step(memory, action=Release(), why="what is left of a lease is given back")
    if seen.lease is None:
        return Step(memory, why="the lease store does not answer")
    if _may_lead_again(memory, seen, rules):
        return _stand(memory, seen)
    return Step(memory, why="nobody leads; another region may have to, or replicator failover")


def _without_claim(memory: Memory) -> Memory:
    """The memory without an epoch that was claimed and not granted: somebody else may lead in an older one."""
    return dataclasses.replace(memory, epoch=min(memory.epoch, memory.promised))


def _may_lead_again(memory: Memory, seen: Seen, rules: Rules) -> bool:
    """The last primary stands again at once: nobody has led since. So does the first one of all, and one whose
    switchover came to nothing: whom it handed over to has let go."""
    assert seen.lease is not None
    if _ordered_to_stand(memory, seen, rules):
        return True
    nobody_since = max(seen.lease.epoch, memory.promised) <= max(memory.led, memory.mine)
    if memory.half == "primary" and (nobody_since or _has_let_go(memory, seen, rules)):
        return True
    if memory.half == "primary" and any(report.rank > seen.me.rank for report in seen.fresh(rules).values()):
        return False  # it could not get what the other has more: a primary's ledger follows nobody
    is_lost = signals(seen, rules).level is Level.RED and not refused(seen, rules, None)
    return rules.mode == "automatic" and is_lost and my_turn(seen, rules, seen.in_state)


def _has_let_go(memory: Memory, seen: Seen, rules: Rules) -> bool:
    """Whether the region that this one handed over to says that it did not lead, and nobody else can have."""
    assert seen.lease is not None
    target = seen.fresh(rules).get(memory.handed_to)
    is_next = max(seen.lease.epoch, memory.promised) <= memory.led + 1
    return is_next and target is not None and target.led <= memory.led and target.state not in LEADING


def _rejoining(memory: Memory, seen: Seen, rules: Rules) -> Step:
    holder = seen.holder
    if seen.rewound:
        back = dataclasses.replace(_without_claim(memory), half="replica", approved=False, closed_at=None, handed_to="")
        return _event(back, Event.REWOUND)
    if seen.stuck:
        return _event(memory, Event.HALT, seen.stuck)
    if not seen.sealed:
        if seen.lease is not None and holder is None and memory.state is State.REJOINING:
            return _event(memory, Event.LOST, "there is no primary to come back to")
        if holder is None or holder.region == rules.me or not _has_led(seen, holder.region, holder.epoch):
            return Step(memory, why="waits for a primary to compare with")
        return Step(memory, action=Seal(holder.region))
    ordered = seen.order is not None and seen.order.verb == "rejoin"
    if rules.rejoin == "manual" and not (memory.approved or ordered):
        return Step(memory, why="the orphans are sealed; replicator rejoin goes on when a person has looked at them")
    return Step(dataclasses.replace(memory, approved=True), action=Rewind())


def _halted(memory: Memory, seen: Seen, rules: Rules) -> Step:
    if seen.me.open:
        return Step(memory, action=Close())
    if seen.order is not None and seen.order.verb == "rejoin":
        return _event(memory, Event.RESUME)
    return Step(memory, why=memory.why)


def _event(memory: Memory, event: Event, why: str = "") -> Step:
    after = moved(memory.state, event)
    return Step(dataclasses.replace(memory, state=after, why=why), event=event, why=why)


_BY_STATE: dict[State, Callable[[Memory, Seen, Rules], Step]] = {
    State.FOLLOWING: _following,
    State.SUSPECTING: _suspecting,
    State.CLAIMING: _claiming,
    State.FENCING: _fencing,
    State.DRAINING: _draining,
    State.PROMOTING: _promoting,
    State.PRIMARY: _primary,
    State.DEMOTING: _demoting,
    State.DEMOTED: _demoted,
    State.REJOINING: _rejoining,
    State.PAUSED: _paused,
    State.HALTED: _halted,
}
