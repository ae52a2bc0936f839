"""The office as a ``FailoverView``, and its past as events of the history. Quick, and without I/O.

Guarantee: asked on every scrape, it changes nothing that is decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.cluster.failover.detector import signals
from replicator.cluster.failover.loss import PromotionLoss, loss, refused
from replicator.cluster.failover.model import MemberReport, Observation, Order
from replicator.cluster.failover.states import RoleState
from replicator.cluster.failover.view import FailoverView, MemberView
from replicator.cluster.leases.base import boot_seconds
from replicator.status.model import RegionEvent, Role

if TYPE_CHECKING:
    from replicator.cluster.failover.controller import Controller


def failover_view(office: Controller) -> FailoverView:
    """How the region stands now."""
    seen, rules, term, order = office.look(), office.rules, office.term, office.order
    found, lost = signals(seen, rules), _loss(office, seen)
    return FailoverView(
        own=_standing(seen.me, office.url_of(rules.me), 0.0),
        peers=_peers(office, seen),
        mode=rules.mode,
        promised=office.memory.promised,
        why=office.why,
        level=found.level.value,
        level_why=found.why,
        holder=None if seen.holder is None else seen.holder.region,
        holder_epoch=0 if seen.holder is None else seen.holder.epoch,
        is_lease_known=seen.lease is not None,
        lease_trouble="" if term.trouble is None else str(term.trouble),
        lease_remaining_seconds=term.remaining_seconds,
        order="" if order is None else _order_text(order),
        order_seconds=0.0 if order is None else max(order.until - boot_seconds(), 0.0),
        lost_blocks=lost.blocks,
        lost_amounts=lost.amounts,
        lost_unknown=lost.unknown,
        refused=refused(seen, rules, None),
        orphaned=office.orphans.unhandled,
        totals=dict(office.totals),
    )


def _peers(office: Controller, seen: Observation) -> tuple[MemberView, ...]:
    standings = []
    for name, url in office.peers.urls.items():
        heard = seen.peers.get(name)
        if heard is None:
            silent_seconds = seen.now - office.began_at
            standings.append(MemberView(name, url, silent_seconds, blocked="it has not answered yet"))
        else:
            standings.append(_standing(heard.report, url, max(seen.now - heard.at, 0.0)))
    return tuple(standings)


def _standing(report: MemberReport, url: str, age_seconds: float) -> MemberView:
    return MemberView(
        report.region,
        url,
        age_seconds,
        report.state.value,
        report.epoch,
        report.sequence,
        report.applied,
        report.verified,
        report.open,
        "" if report.state is RoleState.PRIMARY else report.blocked,
    )


def _loss(office: Controller, seen: Observation) -> PromotionLoss:
    """What would be lost with the primary. It knows best itself; others go by what they have heard."""
    at_risk = office.core.view.at_risk
    if at_risk is None or not seen.me.open:
        return loss(seen, office.rules)
    blocks = at_risk.view().blocks
    return PromotionLoss(blocks, dict(seen.me.at_risk) if blocks else {}, seen.me.at_risk_unknown if blocks else 0)


def _order_text(order: Order) -> str:
    words = order.verb + (f" to {order.target}" if order.target else "")
    words += ", data may be lost" if order.allow_data_loss else ""
    return f"{words} ({order.reason})" if order.reason else words


def role_of(office: Controller) -> Role:
    """Primary is only who leads with its fence open."""
    return "primary" if office.memory.state is RoleState.PRIMARY and office.term.is_open else "replica"


def past(office: Controller) -> list[RegionEvent]:
    """What has happened to the region's role, also before this process."""
    return [
        RegionEvent(
            one.at_us,
            one.event,
            "primary" if one.state in (RoleState.PRIMARY, RoleState.DEMOTING) else "replica",
            one.epoch,
            f"now {one.state}" + (f": {one.why}" if one.why else ""),
        )
        for one in office.happened
    ]
