"""A region that follows: whom, when it suspects that the primary is lost, and when it stands. Pure."""

from __future__ import annotations

import dataclasses

from replicator.cluster.failover.candidate import my_turn
from replicator.cluster.failover.decisions.step import Step, entering, has_led, ordered_to_stand, stand
from replicator.cluster.failover.detector import Level, signals
from replicator.cluster.failover.loss import refused
from replicator.cluster.failover.model import Follow, Memory, Rules, Seen, Tell
from replicator.cluster.failover.states import Event, State


def following(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """Follow who holds the lease; suspect when nobody does and nobody is heard."""
    holder = seen.holder
    if ordered_to_stand(memory, seen, rules):
        return stand(memory, seen)
    if holder is not None and holder.region != rules.me:
        return _follow(memory, seen, holder.region, holder.epoch)
    if seen.lease is not None and max(seen.lease.epoch, memory.epoch) == 0:
        return Step(memory, why="nobody has ever led: the region that is configured as primary begins")
    found = signals(seen, rules)
    if found.level is Level.RED and memory.state is not State.PAUSED:
        return entering(memory, Event.SUSPECT, found.why)
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
    if seen.diverged and has_led(seen, region, epoch):
        return entering(memory, Event.DIVERGED, f"this chain is not that of {region}")
    return Step(memory)


def suspecting(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """The primary is lost by both signals: stand when it is this region's turn, or say that it would."""
    found = signals(seen, rules)
    if ordered_to_stand(memory, seen, rules):
        return stand(memory, seen)
    if found.level is not Level.RED:
        return entering(memory, Event.CLEAR, found.why or "the primary is there again")
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
    return stand(memory, seen)


def paused(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """Follow, and take part in nothing."""
    return following(memory, dataclasses.replace(seen, order=None), rules)
