"""What a region does next: one step, from what it remembers and what it sees.

Guarantees, each checked by the simulation:

    one primary      a fence is opened only under a usable lease, and closed before the lease can have ended elsewhere
    nothing lost     a region leads only after so many have promised its epoch that one of them has every acknowledged
                     block, and after it has fetched what they have more
    nothing undone   blocks are rewound only after they are sealed

The idea is a controller that looks, does one thing, and looks again (``Decision``): there is no script to be
interrupted. A step is an event, which changes the state (and is made durable before anything else is done), or an
action, or nothing for now. Whatever was interrupted is found again by looking.

What is decided in each state is in ``replica``, ``promotion``, ``primary`` and ``former_primary``.

Pure: no clock, no I/O. Promises with growing epochs are those of Paxos (Lamport, 1998); that the end of a chain tells
who has more is Raft's.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.cluster.decisions import former_primary, primary, promotion, replica
from replicator.cluster.decisions.model import DurableState, FailoverRules, Observation
from replicator.cluster.decisions.states import LEADING, RoleState
from replicator.cluster.decisions.step import Decision, promise

__all__ = ["Decision", "decide", "promise"]


def decide(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """The next step of this region."""
    newest = max(memory.epoch, memory.promised, seen.lease.epoch if seen.lease else 0)
    handed_over = memory.state is RoleState.DEMOTING and seen.holder is not None and seen.holder.region != rules.me
    if memory.state in LEADING and newest > memory.epoch and not handed_over:
        return primary.superseded(memory, seen)
    return _BY_STATE[memory.state](memory, seen, rules)


_BY_STATE: dict[RoleState, Callable[[DurableState, Observation, FailoverRules], Decision]] = {
    RoleState.FOLLOWING: replica.following,
    RoleState.SUSPECTING: replica.suspecting,
    RoleState.CLAIMING: promotion.claiming,
    RoleState.FENCING: promotion.fencing,
    RoleState.DRAINING: promotion.draining,
    RoleState.PROMOTING: promotion.promoting,
    RoleState.PRIMARY: primary.primary,
    RoleState.DEMOTING: primary.demoting,
    RoleState.DEMOTED: former_primary.demoted,
    RoleState.REJOINING: former_primary.rejoining,
    RoleState.PAUSED: replica.paused,
    RoleState.HALTED: former_primary.halted,
}
