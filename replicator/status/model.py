"""One moment of a region, as values: what metrics, status, health and the page are made of.

Guarantee: a snapshot never changes and holds no secret. None means *not known* and is shown or left out as such, never
as zero. ``snapshot`` builds it from what the stages report; everything else in ``status`` is a function of it.

What a part of the region reports as a value already is a field here as it is, and JSON shows every field of it: a new
field of a source, of the journal's keeper or of a comparison is defined there, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

from replicator.cluster.failover.status import FailoverView
from replicator.config.roles import Role
from replicator.format.position import Position
from replicator.pipeline.acknowledge.view import AcknowledgeView
from replicator.pipeline.feed.publish import ServedFollower
from replicator.pipeline.sources.base import SourceReport
from replicator.status.marks import StrandView
from replicator.status.settle_view import SettleView
from replicator.storage.journal.keeper import RetentionReport
from replicator.storage.journal.regions import KnownRegion
from replicator.verify.view import VerifyView

ROLES: tuple[Role, ...] = ("primary", "replica")

DrillKind = Literal[
    "canary",
    "switchover",
    "rehearsal",
    "region_loss",
    "partition",
    "slow_link",
    "sidecar_crash",
    "database_crash",
    "disk_full",
    "clock_skew",
    "lease_store_loss",
]
DrillOutcome = Literal["passed", "missed", "stopped", "failed"]


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaView:
    """The region's copy; ``place`` says where it is, without credentials."""

    kind: str
    place: str
    drifted_rows: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class JournalView:
    """What the journal holds, by the last look of its keeper, and every region that ever followed this one: how far it
    says that it has everything durably. ``at_us`` is the wall time of this moment, for their ages."""

    report: RetentionReport
    regions: tuple[KnownRegion, ...]
    at_us: int

    @property
    def oldest_age_seconds(self) -> float | None:
        """The age of the oldest block that is kept; None if none is."""
        oldest_at = self.report.oldest_at
        return None if oldest_at is None else (self.at_us - oldest_at) / 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class RegionEvent:
    """Something that changed what this region is: a start, a change of role. ``at_us`` is wall time."""

    at_us: int
    kind: str
    role: Role
    epoch: int
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class DrillView:
    """The last drill of a kind that this region was told of."""

    kind: str
    name: str
    outcome: str
    age_seconds: float
    rto_seconds: float | None = None
    rpo_blocks: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class StrandState:
    """A strand: how far it is, and what is known of its safety. ``position`` is the journal's end."""

    progress: StrandView
    epoch: int
    position: Position | None = None
    applied_blocks: int | None = None
    settle: SettleView | None = None
    quarantined_statements: int | None = None
    verify: VerifyView | None = None
    held_keys: Mapping[str, int] = dataclasses.field(default_factory=dict)  # that wait behind those, by table
    lease_remaining_seconds: float | None = None
    at_risk_blocks: int | None = None
    at_risk_amounts: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)  # by table and currency
    at_risk_unknown: int | None = None  # changes at risk whose amount is not known
    journal: JournalView | None = None
    acknowledge: AcknowledgeView | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """The region. ``primary_url`` is whom it follows; ``at_us`` the wall time of this moment. In a cluster, whose part
    in it ``failover`` tells, only who leads with its fence open has the role of a primary."""

    region: str
    role: Role
    version: str
    at_us: int
    uptime_seconds: float
    strands: tuple[StrandState, ...] = ()
    source: SourceReport | None = None
    replica: ReplicaView | None = None
    followers: tuple[ServedFollower, ...] = ()
    primary_url: str | None = None
    history: tuple[RegionEvent, ...] = ()
    drills: tuple[DrillView, ...] = ()
    failover: FailoverView | None = None


class StatusSource(Protocol):
    """Whoever can say how the region is. Quick and without I/O: it is asked on every scrape."""

    def snapshot(self) -> Snapshot:
        """The region, now."""
