"""What the controller asks of the region that it decides for. The running region implements it (``runtime``).

These protocols are all that failover knows of the flow: which role's part of it runs, how far a replica is, and the
ledger's own steps of a change of role. So the controller can be read, and simulated, without the flow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from replicator.cluster.failover.at_risk import AtRisk
from replicator.cluster.fencing.base import Fence
from replicator.cluster.rejoin.orphan_receiver import OrphanReceiver
from replicator.cluster.rejoin.orphans import Orphans
from replicator.config import Config
from replicator.format.position import Position
from replicator.pipeline.feed.client import Upstream
from replicator.pipeline.replicas.base import Replica
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal


class RoleAdapter(Protocol):
    """What a change of role asks of the region's ledger, whatever kind it is.

    Asked of every kind: each step may be repeated, and may be interrupted at any instruction. No part of the flow runs
    while a step does, save where it says so.
    """

    @property
    def fence(self) -> Fence:
        """What stands before its applications."""

    def is_whole(self, at: int | None = None) -> bool:
        """Whether the ledger's first copy is durable in the journal, up to the sequence ``at`` (None: its end); always
        where there is nothing to copy. Blocks."""

    def count_rows(self, tables: Collection[str]) -> dict[str, int]:
        """How many rows these tables have, by their labels; of those that are there. Blocks."""

    async def unfit(self) -> str:
        """Why this ledger could not be a primary's, empty if it could. Asked now and then while a replica runs."""

    async def promote(self, epoch: int, *, planned: bool) -> None:
        """Make it a primary's, at the journal's end, which is applied; it may begin the epoch in the journal.
        ``planned``: the old primary had closed, and its last values are all there. Raises Unavailable or Halted."""

    def withdraw(self) -> None:
        """Take back what a promotion has begun that was given up; without one there is nothing to do. Called before
        anything is replayed. Blocks. Raises Unavailable or Halted."""

    async def is_captured(self, closing: float) -> bool:
        """Whether all that was committed before the fence closed is in the journal, by the primary's part of the flow.
        ``closing`` tells one closing from the next."""

    async def capture_rest(self) -> None:
        """Bring into the journal what a former primary committed and did not capture; the fence is closed."""

    async def adopt(self, position: Position) -> None:
        """Make it a replica's, at this position, which is the journal's end."""


class PrimaryRole(Protocol):
    """A primary's part of the flow, while it runs."""

    @property
    def accepts_writes(self) -> bool:
        """Whether a write that comes to this sidecar would be taken now, the fence apart."""

    def stop_acknowledging(self, why: str) -> None:
        """Answer writers who wait for other regions that the outcome is unknown, from now on."""


class ReplicaRole(Protocol):
    """A replica's part of the flow, while it runs."""

    @property
    def applied_sequence(self) -> int:
        """The last block that the replica has."""

    @property
    def is_drained(self) -> bool:
        """Whether all that was received durably is in the journal, and nothing more can arrive."""

    @property
    def refused(self) -> str:
        """The reason why the region that is followed gives nothing, if no retry cures it; empty: it does."""

    @property
    def heard_at(self) -> float | None:
        """When the feed was heard last, by trio's clock."""

    @property
    def heard_head(self) -> int:
        """How far the region that is followed said that it is."""

    def forget_head(self) -> None:
        """What was heard of its head counts no more."""

    def follow(self, url: str | None) -> None:
        """Follow the region at this address from now on, or nobody."""

    def verify_now(self) -> None:
        """Have what was applied verified without waiting for the next checkpoint."""


class RoleFlow(Protocol):
    """The part of the flow that a role has: at most one runs, and it is stopped whole before another one starts."""

    @property
    def is_running(self) -> bool:
        """Whether a role's part runs."""

    @property
    def primary(self) -> PrimaryRole | None:
        """The part that runs, if it is a primary's."""

    @property
    def replica(self) -> ReplicaRole | None:
        """The part that runs, if it is a replica's."""

    def start(self, config: Config) -> None:
        """Start the part for the role in this configuration; none may run."""

    async def stop(self) -> None:
        """Stop what runs; returns when all of it has ended and its files are closed."""


class StrandHealth(NamedTuple):
    """What could keep a region from being promoted, as its own parts say. ``verified`` is the sequence up to which it
    is proven equal, None where nothing watches; ``halted`` the stage that is halted, and by what; ``source_trouble``
    what a primary's source is halted by, or waits for, and ``is_copying`` whether that has begun to copy, or more."""

    quarantined_statements: int = 0
    divergent_keys: int = 0
    verified: int | None = None
    halted: str = ""
    source_trouble: str = ""
    is_copying: bool = False


class Region(Protocol):
    """The region that a controller decides for."""

    config: Config
    strand: str
    data_dir: DataDir
    journal: Journal
    history: HistoryIndex
    journal_head: JournalHead
    flow: RoleFlow
    adapter: RoleAdapter

    @property
    def at_risk(self) -> AtRisk | None:
        """What would be lost with this region, while it is the primary."""

    def health(self) -> StrandHealth:
        """How its strand is. Quick, and without I/O."""

    def look_again(self) -> None:
        """The journal was changed by somebody else than a stage: a role's first block, or blocks that were cut off."""

    def upstream(self, url: str) -> Upstream:
        """How the region at ``url`` is followed."""

    def make_replica(self) -> Replica:
        """The writing side of its replica; opens nothing."""

    def orphans(self, primary_url: Callable[[], str | None]) -> Orphans:
        """Its sealed orphans; ``primary_url`` gives whom they are re-applied to."""

    def orphan_receiver(self) -> OrphanReceiver:
        """Where it carries out orphans of other regions. Raises Rejected if its ledger is no database."""
