"""A region that follows: whom, when it suspects that the primary is lost, and when it stands. Pure."""

from __future__ import annotations

import dataclasses

from replicator.cluster.decisions.candidate import my_turn
from replicator.cluster.decisions.detector import Level, signals
from replicator.cluster.decisions.loss import refused
from replicator.cluster.decisions.model import DurableState, FailoverRules, FollowRegion, Observation, ReportIntent
from replicator.cluster.decisions.states import RoleEvent, RoleState
from replicator.cluster.decisions.step import Decision, entering, has_led, ordered_to_stand, stand


def following(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Follow who holds the lease; suspect when nobody does and nobody is heard."""
    holder = seen.holder
    if ordered_to_stand(memory, seen, rules):
        return stand(memory, seen)
    if holder is not None and holder.region != rules.me:
        return _follow(memory, seen, holder.region, holder.epoch)
    if seen.lease is not None and max(seen.lease.epoch, memory.epoch) == 0:
        return Decision(memory, why="nobody has ever led: the region that is configured as primary begins")
    found = signals(seen, rules)
    if found.level is Level.RED and memory.state is not RoleState.PAUSED:
        return entering(memory, RoleEvent.SUSPECT, found.why)
    return Decision(memory, why=found.why)


def _follow(memory: DurableState, seen: Observation, region: str, epoch: int) -> Decision:
    if epoch < memory.promised:
        if seen.following is not None:
            return Decision(
                memory, action=FollowRegion(None), why=f"epoch {memory.promised} is promised to another region"
            )
        return Decision(memory, why=f"{region} holds the lease in epoch {epoch}, and {memory.promised} is promised")
    if epoch > memory.epoch:
        changed = dataclasses.replace(memory, epoch=epoch, promised=max(epoch, memory.promised), changed_at=seen.now)
        return Decision(changed, action=FollowRegion(region), why=f"{region} leads in epoch {epoch}")
    if seen.following != region:
        return Decision(memory, action=FollowRegion(region), why=f"{region} holds the lease")
    if seen.diverged and has_led(seen, region, epoch):
        return entering(memory, RoleEvent.DIVERGED, f"this chain is not that of {region}")
    return Decision(memory)


def suspecting(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """The primary is lost by both signals: stand when it is this region's turn, or say that it would."""
    found = signals(seen, rules)
    if ordered_to_stand(memory, seen, rules):
        return stand(memory, seen)
    if found.level is not Level.RED:
        return entering(memory, RoleEvent.CLEAR, found.why or "the primary is there again")
    if rules.mode == "manual":
        return Decision(memory, why=f"{found.why}; replicator failover CONFIG promotes by hand")
    quiet_until = -1.0 if memory.changed_at is None else memory.changed_at + rules.quiet_seconds
    if memory.changed_at is not None and memory.changed_at <= seen.now < quiet_until:
        return Decision(
            memory, why=f"{found.why}; the primary has changed {seen.now - memory.changed_at:.0f} s ago: quiet"
        )
    if not my_turn(seen, rules, seen.in_state):
        return Decision(memory, why=f"{found.why}; {seen.me.blocked or 'another region has more'}")
    lost = refused(seen, rules, None)
    if rules.mode == "shadow":
        return Decision(
            memory, action=ReportIntent(f"would stand for primary: {found.why}; {lost or 'nothing known is lost'}")
        )
    if lost:
        return Decision(memory, why=lost)
    return stand(memory, seen)


def paused(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Follow, and take part in nothing."""
    return following(memory, dataclasses.replace(seen, order=None), rules)
