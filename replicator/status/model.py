"""One moment of a region, as values: what metrics, status, health and the page are made of.

Guarantee: a snapshot never changes and holds no secret. None means *not known* and is shown or left out as such, never
as zero. ``snapshot`` builds it from what the stages report; everything else in ``status`` is a function of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

from replicator.cluster.failover.status import FailoverView
from replicator.config.roles import Role
from replicator.format.position import Position
from replicator.pipeline.acknowledge.view import AcknowledgeView
from replicator.pipeline.sources.base import SourceReport
from replicator.status.marks import StrandView
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
class GapView:
    """Missing sequences, ``first`` to ``last``; ``state`` is open, requested or expired."""

    first: int
    last: int
    state: str
    age_seconds: float
    missing: int | None = None  # of these sequences; None: all
    requests: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class SettleView:
    """What waits to settle in a strand, and what was seen on the way.

    ``pressure`` names the bound that is reached, empty if none is; ``spool_set_aside`` where a damaged spool was put.
    The feed's clock is ours plus ``clock_offset_seconds``. ``lateness`` counts entries by how late they came: the upper
    edge of each bucket in seconds (the last one infinite) and how many lie in it.
    """

    entries: int = 0
    bytes: int = 0
    oldest_age_seconds: float = 0.0
    gaps: tuple[GapView, ...] = ()
    gaps_opened: int = 0
    gaps_filled: int = 0
    gaps_waived: int = 0
    gap_requests: int = 0
    late: int = 0
    duplicates: int = 0
    conflicts: int = 0
    idle_strands: int = 0
    window_seconds: float = 0.0
    window_reason: str = ""
    clock_offset_seconds: float | None = None
    clock_error_seconds: float | None = None
    pressure: str = ""
    spool_set_aside: str = ""
    lateness: tuple[tuple[float, int], ...] = ()
    lateness_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class FollowerView:
    """A region that reads this one's feed: the name it gives itself, and the last sequence sent to it."""

    region: str
    strand: str
    sent_sequence: int


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaView:
    """The region's copy; ``place`` says where it is, without credentials."""

    kind: str
    place: str
    drifted_rows: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class RegionView:
    """A region that has followed this one. It has everything up to ``sequence`` durably, as it said
    ``reported_age_seconds`` ago; ``state`` is known, lost (what it needs next was pruned) or forgotten."""

    region: str
    sequence: int
    reported_age_seconds: float
    state: str


@dataclasses.dataclass(frozen=True, slots=True)
class JournalView:
    """What the journal holds. ``held_by`` is who keeps what should go by the policy, and is at ``held_at``; ``lost``
    are the regions that the budget was used up against; ``forced_blocks`` were pruned although one needed them."""

    bytes: int
    begins_behind: int
    first_sequence: int | None = None
    oldest_age_seconds: float | None = None
    held_by: str | None = None
    held_at: int | None = None
    lost: tuple[str, ...] = ()
    pruned_blocks: int = 0
    forced_blocks: int = 0
    trouble: str = ""
    regions: tuple[RegionView, ...] = ()


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
    followers: tuple[FollowerView, ...] = ()
    primary_url: str | None = None
    history: tuple[RegionEvent, ...] = ()
    drills: tuple[DrillView, ...] = ()
    failover: FailoverView | None = None


class StatusSource(Protocol):
    """Whoever can say how the region is. Quick and without I/O: it is asked on every scrape."""

    def snapshot(self) -> Snapshot:
        """The region, now."""
