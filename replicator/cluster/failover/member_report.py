"""What a region says of itself, to its peers and to whoever asks.

Guarantee: a report shows a promise only once it is kept in full: the fence of an older epoch is closed, nothing of an
older epoch can arrive any more, and all that has arrived is in the journal. So who counts promises sees, with the
promise, all that this region will ever have of older epochs.

Quick, and without I/O.
"""

from __future__ import annotations

from replicator.cluster.decisions.model import MemberReport
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.membership import Membership
from replicator.cluster.failover.region import StrandHealth
from replicator.cluster.leases.base import boot_seconds

REASON_LIMIT = 500
_WRITES = (RoleState.PRIMARY, RoleState.DEMOTING, RoleState.PROMOTING)


def report(member: Membership) -> MemberReport:
    """The region of this membership, now."""
    memory, region = member.memory, member.region
    head, replica = region.journal_head.head, region.flow.replica
    health = region.health()
    heard_seconds, heard_head = _heard(member)
    at_risk, unknown = _at_risk(member)
    return MemberReport(
        region=member.rules.me,
        state=memory.state,
        epoch=memory.epoch,
        promised=memory.promised if _is_promise_kept(member) else 0,
        head_epoch=head.epoch,
        sequence=head.sequence,
        hash=head.hash.hex(),
        # A primary's ledger is where its journal comes from, so it has all of it.
        applied=head.sequence if replica is None else replica.applied_sequence,
        verified=head.sequence if replica is None or health.verified is None else health.verified,
        open=member.lease.is_open,
        priority=member.config.failover.priority,
        blocked=why_not_promotable(memory.state, health, member.unfit)[:REASON_LIMIT],
        heard_seconds=heard_seconds,
        heard_head=heard_head,
        at_risk=at_risk,
        at_risk_unknown=unknown,
        led=memory.led,
    )


def why_not_promotable(state: RoleState, health: StrandHealth, unfit: str) -> str:
    """The one reason why a region could not be promoted now, empty if it could; ``unfit`` is what its ledger says.

    Being behind is no reason: who has the most is chosen, and what is missing is fetched or refused as a loss. A reason
    is what would make a promoted region wrong, or unable to write. Pure.
    """
    if unfit:
        return unfit
    if state is RoleState.PAUSED:
        return "paused by an operator: replicator resume"
    if state in (RoleState.REJOINING, RoleState.HALTED):
        return f"it is {state.value}"
    if health.quarantined_statements:
        return f"{health.quarantined_statements} statements are in quarantine: replicator quarantine"
    if health.divergent_keys:
        return f"{health.divergent_keys} keys differ from the primary's: replicator repair"
    return health.halted


def _is_promise_kept(member: Membership) -> bool:
    """Whether what was promised is true by now."""
    promised = member.memory.promised
    is_closed = not member.lease.is_open or member.memory.led >= promised
    return is_closed and member.session.honours(promised)


def _at_risk(member: Membership) -> tuple[dict[str, float], int]:
    """What would be lost with the primary, as it says itself: amounts by table and currency, and unknown changes."""
    at_risk = member.region.at_risk
    if at_risk is not None:
        view = at_risk.view()
        amounts = {f"{table} {currency}": float(amount) for (table, currency), amount in view.amounts.items()}
        return amounts, view.unknown
    heard = member.peers.heard.get(member.session.region or "")
    return (dict(heard.report.at_risk), heard.report.at_risk_unknown) if heard is not None else ({}, 0)


def _heard(member: Membership) -> tuple[float | None, int]:
    """How long ago this region heard one that may write, and how far that was. The feed alone does not tell: who is
    cut off from the lease store may still be sending it, fenced. So its last report counts if that is older."""
    if member.lease.is_open:
        return 0.0, member.region.journal_head.head.sequence
    age_seconds, head = member.session.heard()
    heard = member.peers.heard.get(member.session.region or "")
    if heard is None or age_seconds is None:
        return age_seconds, head
    if heard.report.state not in _WRITES:
        return None, head
    return max(age_seconds, boot_seconds() - heard.at), head
