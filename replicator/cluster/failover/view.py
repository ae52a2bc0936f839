"""How a region of a cluster stands at one moment, as values: what status, metrics and the page show of failover."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SILENT_SECONDS = 3.0  # whoever has not answered for so long is shown as silent: several looks


@dataclasses.dataclass(frozen=True, slots=True)
class MemberView:
    """A region, as it said ``seen_age_seconds`` ago; ``state`` is empty if it has not answered since this one started.

    ``blocked`` is the one reason why it could not be promoted now, empty if it could be or leads.
    """

    region: str
    url: str
    seen_age_seconds: float = 0.0
    state: str = ""
    epoch: int = 0
    sequence: int = 0
    applied: int = 0
    verified: int = 0
    is_open: bool = False
    blocked: str = ""

    @property
    def leads(self) -> bool:
        """Whether its applications may write."""
        return self.state == "primary" and self.is_open and not self.is_silent

    @property
    def is_silent(self) -> bool:
        """Whether what it said is too old to be believed."""
        return not self.state or self.seen_age_seconds > SILENT_SECONDS


@dataclasses.dataclass(frozen=True, slots=True)
class FailoverView:
    """A region of a cluster. ``own`` is this region, ``peers`` are the others.

    ``level`` and ``level_why`` are what the detector thinks of the primary, ``why`` is what the next step of this
    region waits for. ``holder`` and ``holder_epoch`` are the lease's as it was seen last; ``is_lease_known`` is False
    while its store does not answer. ``lost_blocks`` and the rest are what would be lost if the primary were gone now,
    ``refused`` why that would keep a region from being promoted. ``orphaned`` transactions are sealed here and not
    handled. ``totals`` counts events since the sidecar started, by name.
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
    orphaned: int = 0
    totals: Mapping[str, int] = dataclasses.field(default_factory=dict)
