"""What a region says of itself, to its peers and to whoever asks.

Guarantee: a report shows a promise only once it is kept in full: the fence of an older epoch is closed, nothing of an
older epoch can arrive any more, and all that has arrived is in the journal. So who counts promises sees, with the
promise, all that this region will ever have of older epochs.

Quick, and without I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.cluster.failover.model import MemberReport
from replicator.cluster.failover.readiness import why_not
from replicator.cluster.failover.states import RoleState
from replicator.cluster.leases.base import boot_seconds
from replicator.runtime.roles.replica import ReplicaPipeline

if TYPE_CHECKING:
    from replicator.cluster.failover.controller import Controller

_WRITES = (RoleState.PRIMARY, RoleState.DEMOTING, RoleState.PROMOTING)


def report(office: Controller) -> MemberReport:
    """The region of this office, now."""
    memory, core = office.memory, office.core
    head, half = core.tail.head, office.running.half
    replica = half if isinstance(half, ReplicaPipeline) else None
    strand = core.view.strand_state()
    heard, heard_head = _heard(office)
    at_risk, unknown = _at_risk(office)
    return MemberReport(
        region=office.rules.me,
        state=memory.state,
        epoch=memory.epoch,
        promised=memory.promised if _is_kept(office) else 0,
        head_epoch=head.epoch,
        sequence=head.sequence,
        hash=head.hash.hex(),
        applied=head.sequence if replica is None else replica.applied.head.sequence,
        verified=head.sequence if replica is None or strand.verify is None else strand.verify.verified,
        open=office.term.is_open,
        priority=office.config.failover.priority,
        blocked=why_not(memory.state, strand, office.unfit)[:500],
        heard_seconds=heard,
        heard_head=heard_head,
        at_risk=at_risk,
        at_risk_unknown=unknown,
        led=memory.led,
    )


def _is_kept(office: Controller) -> bool:
    """Whether what was promised is true by now."""
    promised = office.memory.promised
    is_closed = not office.term.is_open or office.memory.led >= promised
    return is_closed and office.following.honours(promised)


def _at_risk(office: Controller) -> tuple[dict[str, float], int]:
    """What would be lost with the primary, as it says itself: amounts by table and currency, and unknown changes."""
    at_risk = office.core.view.at_risk
    if at_risk is not None:
        view = at_risk.view()
        amounts = {f"{table} {currency}": float(amount) for (table, currency), amount in view.amounts.items()}
        return amounts, view.unknown
    heard = office.peers.heard.get(office.following.region or "")
    return (dict(heard.report.at_risk), heard.report.at_risk_unknown) if heard is not None else ({}, 0)


def _heard(office: Controller) -> tuple[float | None, int]:
    """How long ago this region heard one that may write, and how far that was. The feed alone does not tell: who is
    cut off from the lease store may still be sending it, fenced. So its last report counts if that is older."""
    if office.term.is_open:
        return 0.0, office.core.tail.head.sequence
    ago, head = office.following.heard()
    heard = office.peers.heard.get(office.following.region or "")
    if heard is None or ago is None:
        return ago, head
    if heard.report.state not in _WRITES:
        return None, head
    return max(ago, boot_seconds() - heard.at), head
