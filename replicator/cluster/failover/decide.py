"""What a region does next: one step, from what it remembers and what it sees.

Guarantees, each checked by the simulation:

    one primary      a fence is opened only under a usable lease, and closed before the lease can have ended elsewhere
    nothing lost     a region leads only after so many have promised its epoch that one of them has every acknowledged
                     block, and after it has fetched what they have more
    nothing undone   blocks are rewound only after they are sealed

The idea is a controller that looks, does one thing, and looks again (``Step``): there is no script to be interrupted.
A step is an event, which changes the state (and is made durable before anything else is done), or an action, or nothing
for now. Whatever was interrupted is found again by looking.

What is decided in each state is in ``deciding``: ``replica``, ``promotion``, ``leading``, ``former``.

Pure: no clock, no I/O. Promises with growing epochs are those of Paxos (Lamport, 1998); that the end of a chain tells
who has more is Raft's.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.cluster.failover.decisions import former_primary, primary, promotion, replica
from replicator.cluster.failover.decisions.step import Step, promise
from replicator.cluster.failover.model import Memory, Rules, Seen
from replicator.cluster.failover.states import LEADING, State

__all__ = ["Step", "decide", "promise"]


def decide(memory: Memory, seen: Seen, rules: Rules) -> Step:
    """The next step of this region."""
    newest = max(memory.epoch, memory.promised, seen.lease.epoch if seen.lease else 0)
    handed_over = memory.state is State.DEMOTING and seen.holder is not None and seen.holder.region != rules.me
    if memory.state in LEADING and newest > memory.epoch and not handed_over:
        return primary.superseded(memory, seen)
    return _BY_STATE[memory.state](memory, seen, rules)


_BY_STATE: dict[State, Callable[[Memory, Seen, Rules], Step]] = {
    State.FOLLOWING: replica.following,
    State.SUSPECTING: replica.suspecting,
    State.CLAIMING: promotion.claiming,
    State.FENCING: promotion.fencing,
    State.DRAINING: promotion.draining,
    State.PROMOTING: promotion.promoting,
    State.PRIMARY: primary.primary,
    State.DEMOTING: primary.demoting,
    State.DEMOTED: former_primary.demoted,
    State.REJOINING: former_primary.rejoining,
    State.PAUSED: replica.paused,
    State.HALTED: former_primary.halted,
}
