"""A region's part in failover as values to be shown. Quick, and without I/O.

Guarantee: asked on every scrape, it changes nothing that is decided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from replicator.cluster.decisions.detector import Level, signals
from replicator.cluster.decisions.loss import PromotionLoss, loss, refused
from replicator.cluster.decisions.model import MemberReport, Observation, Order
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.membership import Membership
from replicator.cluster.failover.observe import look
from replicator.cluster.leases.base import boot_seconds

SILENT_SECONDS = 3.0  # whoever has not answered for so long is shown as silent: several looks


@dataclasses.dataclass(frozen=True, slots=True)
class MemberView:
    """A region of the cluster: its report of ``seen_age_seconds`` ago. One that has not answered since this sidecar
    started has an empty report."""

    region: str
    url: str
    seen_age_seconds: float
    report: MemberReport
    has_answered: bool = True

    @property
    def state(self) -> str:
        """The state of its role; empty if it has not answered."""
        return self.report.state.value if self.has_answered else ""

    @property
    def blocked(self) -> str:
        """The one reason why it could not be promoted now, empty if it could be or leads."""
        return "" if self.state == "primary" else self.report.blocked

    @property
    def leads(self) -> bool:
        """Whether its applications may write."""
        return self.state == "primary" and self.report.open and not self.is_silent

    @property
    def is_silent(self) -> bool:
        """Whether what it said is too old to be believed."""
        return not self.has_answered or self.seen_age_seconds > SILENT_SECONDS


@dataclasses.dataclass(frozen=True, slots=True)
class FailoverView:
    """A region of a cluster. ``own`` is this region, ``peers`` are the others.

    ``level`` and ``level_why`` are what the detector thinks of the primary, ``why`` is what the next step of this
    region waits for. ``holder`` and ``holder_epoch`` are the lease's as it was seen last; ``is_lease_known`` is False
    while its store does not answer. ``lost_blocks`` and the rest are what would be lost if the primary were gone now,
    ``refused`` why that would keep a region from being promoted. ``orphaned`` transactions are sealed here and not
    handled. ``is_copied``: a region beside the primary holds the ledger's first copy, by what it said last; without one
    all would be lost. ``totals`` counts events since the sidecar started, by name.
    """

    own: MemberView
    peers: tuple[MemberView, ...] = ()
    mode: str = "manual"
    promised: int = 0
    why: str = ""
    level: str = "green"
    level_why: str = ""
    holder: str | None = None
    holder_epoch: int = 0
    is_lease_known: bool = True
    lease_trouble: str = ""
    lease_remaining_seconds: float | None = None
    order: str = ""
    order_seconds: float = 0.0
    lost_blocks: int = 0
    lost_amounts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lost_unknown: int = 0
    refused: str = ""
    is_copied: bool = True
    orphaned: int = 0
    totals: Mapping[str, int] = dataclasses.field(default_factory=dict)


def failover_view(member: Membership) -> FailoverView:
    """How the region stands now."""
    observation, rules, lease, order = look(member), member.rules, member.lease, member.order
    (level, level_why), lost = _level(member, observation), _loss(member, observation)
    return FailoverView(
        own=MemberView(rules.me, member.url_of(rules.me), 0.0, observation.me),
        peers=_peers(member, observation),
        mode=rules.mode,
        promised=member.memory.promised,
        why=member.why,
        level=level,
        level_why=level_why,
        holder=None if observation.holder is None else observation.holder.region,
        holder_epoch=0 if observation.holder is None else observation.holder.epoch,
        is_lease_known=observation.lease is not None,
        lease_trouble="" if lease.trouble is None else str(lease.trouble),
        lease_remaining_seconds=lease.remaining_seconds,
        order="" if order is None else _order_text(order),
        order_seconds=0.0 if order is None else max(order.until - boot_seconds(), 0.0),
        lost_blocks=lost.blocks,
        lost_amounts=lost.amounts,
        lost_unknown=lost.unknown,
        refused=refused(observation, rules, None),
        is_copied=_is_copied(observation),
        orphaned=member.orphans.unhandled,
        totals=dict(member.totals),
    )


def _level(member: Membership, observation: Observation) -> tuple[str, str]:
    """What the detector thinks of the primary; no primary is safe whose place nobody could take."""
    suspicion, unclaimable = signals(observation, member.rules), member.lease.unclaimable
    if suspicion.level is Level.GREEN and unclaimable is not None:
        return Level.YELLOW.value, f"no region could take over: {unclaimable.message}"
    return suspicion.level.value, suspicion.why


def _peers(member: Membership, observation: Observation) -> tuple[MemberView, ...]:
    return tuple(_peer(member, observation, name, url) for name, url in member.peers.urls.items())


def _peer(member: Membership, observation: Observation, name: str, url: str) -> MemberView:
    heard = observation.peers.get(name)
    if heard is None:
        nothing = MemberReport(name, RoleState.FOLLOWING)
        return MemberView(name, url, observation.now - member.began_at, nothing, has_answered=False)
    return MemberView(name, url, max(observation.now - heard.at, 0.0), heard.report)


def _loss(member: Membership, observation: Observation) -> PromotionLoss:
    """What would be lost with the primary. It knows best itself; others go by what they have heard."""
    at_risk = member.region.at_risk
    if at_risk is None or not observation.me.open:
        return loss(observation, member.rules)
    blocks = at_risk.view().blocks
    if not blocks:
        return PromotionLoss(0, {})
    return PromotionLoss(blocks, dict(observation.me.at_risk), observation.me.at_risk_unknown)


def _is_copied(observation: Observation) -> bool:
    leader = None if observation.holder is None else observation.holder.region
    reports = [observation.me, *(heard.report for heard in observation.peers.values())]
    return any(report.whole for report in reports if report.region != leader)


def _order_text(order: Order) -> str:
    words = order.verb + (f" to {order.target}" if order.target else "")
    words += ", data may be lost" if order.allow_data_loss else ""
    return f"{words} ({order.reason})" if order.reason else words
