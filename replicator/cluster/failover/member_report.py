"""What a region says of itself, to its peers and to whoever asks.

Guarantee: a report shows a promise only once it is kept in full (``promises``).

Quick, and without I/O.
"""

from __future__ import annotations

from replicator.cluster.decisions.candidate import why_not_in, why_not_without_copy
from replicator.cluster.decisions.detector import heard_seconds
from replicator.cluster.decisions.model import DurableState, MemberReport
from replicator.cluster.decisions.promises import kept_promise
from replicator.cluster.failover.membership import Membership
from replicator.cluster.failover.region import StrandHealth
from replicator.cluster.leases.base import boot_seconds

REASON_LIMIT = 500


def report(member: Membership) -> MemberReport:
    """The region of this membership, now."""
    memory, region = member.memory, member.region
    head, replica = region.journal_head.position, region.flow.replica
    health = region.health()
    silent_seconds, heard_head = _heard(member)
    is_open, honours = member.lease.is_open, member.session.honours(memory.promised)
    at_risk, unknown = _at_risk(member)
    return MemberReport(
        region=member.rules.me,
        state=memory.state,
        epoch=memory.epoch,
        promised=kept_promise(memory, is_open=is_open, honours=honours),
        head_epoch=head.epoch,
        sequence=head.sequence,
        hash=head.hash.hex(),
        # A primary's ledger is where its journal comes from, so it has all of it.
        applied=head.sequence if replica is None else replica.applied_sequence,
        verified=head.sequence if replica is None or health.verified is None else health.verified,
        open=is_open,
        distance_ms=member.peers.distance_ms(member.session.last or ""),
        able=member.lease.view is not None and member.lease.unable is None,
        priority=member.config.failover.priority,
        blocked=why_not_promotable(memory, health, _unfit(member), is_whole=member.is_whole)[:REASON_LIMIT],
        heard_seconds=silent_seconds,
        heard_head=heard_head,
        at_risk=at_risk,
        at_risk_unknown=unknown,
        led=memory.led,
        whole=member.is_whole,
    )


def _unfit(member: Membership) -> str:
    """What keeps this region from leading, whatever its replica holds."""
    unclaimable = member.lease.unclaimable
    claim = "" if unclaimable is None else f"the lease cannot be claimed: {unclaimable.message}"
    return member.unfit or _cannot_write(member) or claim


def _cannot_write(member: Membership) -> str:
    """What keeps this region from opening its ledger to applications, by what its lease's keeper has met; empty if
    nothing does, or it is open still."""
    trouble = member.lease.unable
    return "" if trouble is None or member.lease.is_open else f"its ledger takes no writes: {trouble.message}"


def why_not_promotable(memory: DurableState, health: StrandHealth, unfit: str, *, is_whole: bool) -> str:
    """The one reason why a region could not be promoted now, empty if it could; ``unfit`` is what its ledger says.

    Being behind is no reason: who has the most is chosen, and what is missing is fetched or refused as a loss. A reason
    is what would make a promoted region wrong, or unable to write. Pure.
    """
    if not is_whole:
        reason = why_not_without_copy(memory.half, health.source_trouble, is_copying=health.is_copying)
        if reason:
            return reason
    if reason := unfit or why_not_in(memory.state):
        return reason
    if health.quarantined_statements:
        return f"{health.quarantined_statements} statements are in quarantine: replicator quarantine CONFIG"
    if health.divergent_keys:
        return f"{health.divergent_keys} keys differ from the primary's: replicator repair CONFIG"
    return health.halted


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
    """How long ago this region heard one that may write, and how far that was."""
    if member.lease.is_open:
        return 0.0, member.region.journal_head.position.sequence
    age_seconds, head = member.session.heard()
    followed = member.peers.heard.get(member.session.region or "")
    return heard_seconds(age_seconds, followed, boot_seconds()), head
