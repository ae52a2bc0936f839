"""What a region has in every role: its journal, the feed that serves it, who follows, and what is shown of it all.

Guarantee: none of this ends with a role. A follower of this region stays connected while the region changes its role,
and the metrics go on.
"""

from __future__ import annotations

import random
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from replicator.cluster.fencing.embedded import Gate
from replicator.config import Config
from replicator.errors import Halted
from replicator.format.position import Position
from replicator.pipeline.feed.publish import Publisher
from replicator.pipeline.feed.regions import routes as region_routes
from replicator.runtime import wiring
from replicator.runtime.journal_cure import journal_cure
from replicator.status.drill_results import DrillResults
from replicator.status.drill_results import routes as drill_routes
from replicator.status.metrics import Metrics
from replicator.status.progress import StrandProgress
from replicator.status.routes import routes as observe_routes
from replicator.status.snapshot import SnapshotBuilder
from replicator.status.stage_board import StageBoard, now
from replicator.storage.damage import FileDamage
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.keeper import JournalKeeper
from replicator.storage.journal.regions import KnownRegions
from replicator.storage.journal.store import Journal
from replicator.supervise import Backoff


class RegionContext:
    """The lasting parts of a running region. ``journal`` is open."""

    def __init__(self, config: Config, journal: Journal, id_: str = "") -> None:
        """``id_`` tells this region from another one of its name."""
        self.config = config
        self.id = id_
        self.journal = journal
        self.strand = strand = config.region.strand
        head, committed_at = self._end()
        self.journal_head = JournalHead(head, committed_at)
        self.damage = FileDamage(self.data_dir.damage)
        journal.on_damage = self._journal_damaged
        self.history = HistoryIndex(config.region.files.history, journal)
        self.status = SnapshotBuilder(config, self.journal_head, StageBoard(StrandProgress(strand, [], now())))
        self.regions = KnownRegions(journal, strand)
        self.keeper = JournalKeeper(journal, strand, wiring.retention(config), self.regions)
        self.publisher = Publisher(
            journal,
            {strand: self.journal_head},
            config.feed.heartbeat_seconds,
            self.status.ledger_word,
            {strand: self.regions},
            config.region.name,
        )
        # A follower is asked for prompt reports as its stream opens, and a stream outlives a change of role: one that
        # opens before a primary's pipeline is there to ask would leave the first writers waiting for slow reports.
        self.publisher.wants_reports = lambda: config.cluster is not None and config.failover.acknowledge > 0
        # The publisher asks status for the ledger's sign of life, and status shows the publisher: one is told later.
        self.status.regions, self.status.keeper, self.status.publisher = self.regions, self.keeper, self.publisher
        self.status.drills = self.drills = DrillResults(self.data_dir)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, self.status)
        self.gate = None if config.cluster is None else Gate()  # an embedded ledger asks it before each write

    def _journal_damaged(self, path: Path, error: Halted) -> None:
        """What helps against a damaged journal depends on who else has it."""
        self.damage.found(path, Halted(error.reason, error.message, place=error.place, cure=journal_cure(self.config)))

    @property
    def data_dir(self) -> DataDir:
        """Where the region keeps its files."""
        return self.config.region.files

    def routes(self) -> list[BaseRoute]:
        """What is served in every role."""
        observed = observe_routes(self.status, self.registry)
        known = region_routes(self.regions, self.status)
        return [*observed, *self.publisher.routes(), *known, *drill_routes(self.drills)]

    def backoff(self) -> Backoff:
        """How a stage waits before it tries again."""
        follow = self.config.follow
        least, most = (follow.reconnect_min_seconds, follow.reconnect_max_seconds) if follow else (0.2, 15.0)
        return Backoff(least, most, random.Random())

    def look_again(self) -> None:
        """The journal was changed by somebody else than a stage: a role's first block, or blocks that were cut off."""
        self.journal_head.moved(*self._end())

    def _end(self) -> tuple[Position, int]:
        head = self.journal.head(self.strand)
        last = self.journal.block(self.strand, head.sequence)
        return head, last.header.committed_at if last else 0
