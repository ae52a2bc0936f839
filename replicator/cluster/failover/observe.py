"""One look at the world: all that the next decision is made from, at one moment.

Guarantee: ``observe`` asks the ledger only what a decision needs it for; ``look`` does no I/O at all.
"""

from __future__ import annotations

import dataclasses
import logging

from replicator.cluster.decisions.model import Observation
from replicator.cluster.decisions.orders import present_order
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.member_report import report
from replicator.cluster.failover.membership import Membership
from replicator.cluster.leases.base import boot_seconds
from replicator.errors import ReplicatorError

log = logging.getLogger("replicator")


async def observe(member: Membership) -> Observation:
    """What a decision is made from. An order whose time is over ends here."""
    member.order = present_order(member.order, boot_seconds())
    memory = member.memory
    # Only a primary that has closed its fence, and has not yet captured all, waits for its ledger's last commits.
    closing = memory.state is RoleState.DEMOTING and not member.lease.is_open and memory.closed_at is None
    observation = look(member)
    return dataclasses.replace(observation, captured=await is_captured(member)) if closing else observation


def look(member: Membership) -> Observation:
    """The same as far as it is known without I/O."""
    lease, session = member.lease, member.session
    rejoining = member.memory.state is RoleState.REJOINING
    return Observation(
        now=boot_seconds(),
        since=member.since,
        me=report(member),
        lease=member.lease_view(),
        lease_seconds=member.lease.seen_seconds,
        granted=None if lease.grant is None else lease.grant.epoch,
        usable_until=lease.usable_until,
        peers=dict(member.peers.heard),
        order=member.order,
        following=session.session.seen_in(member.memory.epoch),
        polled=member.peers.polled,
        asked=member.asked_epoch == member.memory.epoch,
        diverged=session.is_diverged,
        settled=session.is_settled,
        sealed=rejoining and member.rejoin.is_sealed,
        rewound=rejoining and member.rejoin.is_rewound,
        stuck=member.rejoin.stuck if rejoining else "",
    )


async def is_captured(member: Membership) -> bool:
    """Whether all that the ledger has committed is in the journal; the fence is closed. Never raises."""
    try:
        return await member.region.adapter.is_captured(member.since)
    except ReplicatorError as error:
        log.warning("whether all is captured cannot be told: %s", error)
        return False
