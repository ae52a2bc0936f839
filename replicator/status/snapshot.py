"""The region at one moment, for status and metrics: what the running parts report, put together.

Guarantee: quick, and without I/O; it is asked on every scrape. It is asked most when something is wrong, and an answer
that waited for a disk, a database or another region would be missing just then. So what costs I/O is kept by whoever
does the work, as it was at the last look; a snapshot is read in one go on trio's thread, where no task runs meanwhile.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable

import trio
from psycopg.conninfo import conninfo_to_dict

from replicator import __version__
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.at_risk import AtRisk
from replicator.cluster.failover.controller import Controller
from replicator.cluster.failover.membership import Membership
from replicator.cluster.failover.status import failover_view
from replicator.config import Config, PostgresReplicaSettings, SqliteReplicaSettings
from replicator.config.roles import Role
from replicator.ledger.ledger import Ledger
from replicator.pipeline.acknowledge import Acknowledgement
from replicator.pipeline.feed.follow import Follower
from replicator.pipeline.feed.publish import LedgerWord, Publisher
from replicator.pipeline.replay.quarantine import Quarantine
from replicator.pipeline.replicas.base import Replica
from replicator.pipeline.sources.base import Source, SourceReport
from replicator.status.drill_results import DrillResults
from replicator.status.marks import StageCondition
from replicator.status.model import JournalView, RegionEvent, ReplicaView, Snapshot, StrandState
from replicator.status.settle_view import SettleView, settle_view
from replicator.status.stage_board import StageBoard, now
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.keeper import JournalKeeper
from replicator.storage.journal.regions import KnownRegions
from replicator.verify.watch import ReplicaWatch

EVENTS_LIMIT = 1_000
_TROUBLED = (StageCondition.HALTED, StageCondition.WAITING, StageCondition.STUCK)


class SnapshotBuilder:
    """Puts snapshots together. Parts that this region's role does not have stay None."""

    def __init__(self, config: Config, journal_head: JournalHead, board: StageBoard) -> None:
        self._journal_head = journal_head
        self._started = trio.current_time()
        self._config = config
        self._history: deque[RegionEvent] = deque(maxlen=EVENTS_LIMIT)
        self.event("start")
        self.controller: Controller | None = None
        self.publisher: Publisher | None = None
        self.regions: KnownRegions | None = None
        self.keeper: JournalKeeper | None = None
        self.drills: DrillResults | None = None
        self.begin(config, board)

    def begin(self, config: Config, board: StageBoard) -> None:
        """Another pipeline runs from now on, with this configuration; it tells which parts it has."""
        self._config = config
        self._board = board
        # What the last role had must not be shown of this one, nor be kept alive by being shown.
        self.source: Source | None = None
        self.complete_at: Callable[[], float | None] | None = None  # what Capture has of the source
        self.ledger: Ledger | None = None
        self.replica: Replica | None = None
        self.follower: Follower | None = None
        self.watch: ReplicaWatch | None = None
        self.applied_blocks: int | None = None
        self.quarantine: Quarantine | None = None
        self.acknowledgement: Acknowledgement | None = None
        self.at_risk: AtRisk | None = None
        self._copied_rows = 0

    @property
    def _member(self) -> Membership | None:
        """The region's part in its cluster, once its durable state is read."""
        controller = self.controller
        return controller.member if controller is not None and controller.has_begun else None

    def primary_url(self) -> str | None:
        """Where the primary is, as far as this region knows."""
        if self._member is not None and (url := self._member.primary_url()):
            return url
        if self.follower is not None and self.follower.upstream_url:
            return self.follower.upstream_url
        return self._config.follow.primary if self._config.follow else None

    def event(self, kind: str, note: str = "") -> None:
        """Something happened that history should tell."""
        region = self._config.region
        self._history.append(RegionEvent(time.time_ns() // 1000, kind, region.role, region.epoch, note))

    def ledger_word(self) -> LedgerWord:
        """What other regions are told of the ledger. A replica passes on what it was told itself."""
        self._listen_to_source()
        trouble = self._ledger_trouble()
        if self.follower is None and self._role() != "primary":
            return LedgerWord(None, trouble)
        if self.ledger is not None:  # it writes the journal itself: what is not there was never committed
            return LedgerWord(self.ledger.stamped_until(), trouble)
        progress = self._board.progress
        heard, complete_at = progress.complete_clock_us("settled"), progress.complete_at("settled")
        if heard is None or complete_at is None:
            return LedgerWord(None, trouble)
        # By the clock of the ledger's own region, from one region to the next: no two clocks are ever compared.
        return LedgerWord(heard, trouble, heard + round((trio.current_time() - complete_at) * 1e6))

    def _ledger_trouble(self) -> str | None:
        """What keeps the ledger's end from being known here, as ``condition:reason``."""
        if self._board.upstream_trouble is not None:
            return self._board.upstream_trouble
        if self.follower is None and self._role() != "primary":
            return "fenced:not_primary"
        view = self._board.progress.view(now())
        for stage in view.stages:
            if stage.name != "apply" and stage.condition in _TROUBLED:
                reason = "no_heartbeat" if stage.trouble is None else stage.trouble.reason
                return f"{stage.condition.value}:{reason}"
        if self.source is not None and self.source.report.phase == "copying":
            return "copying:first_copy"
        return None if self.source is None or view.head_age_seconds is not None else "starting:connecting"

    def snapshot(self) -> Snapshot:
        """The region, now."""
        region, member = self._config.region, self._member
        self._listen_to_source()
        return Snapshot(
            region=region.name,
            role=self._role(),
            version=__version__,
            at_us=time.time_ns() // 1000,
            uptime_seconds=trio.current_time() - self._started,
            strands=(self.strand_state(),),
            source=self._source_report(),
            replica=_replica_view(self._config, self.replica.drifted_rows) if self.replica else None,
            followers=() if self.publisher is None else tuple(self.publisher.followers.values()),
            primary_url=self.primary_url(),
            history=self._events(),
            drills=self.drills.views() if self.drills is not None else (),
            failover=None if member is None else failover_view(member),
        )

    def _role(self) -> Role:
        """What it is for those who read and write. In a cluster nobody is primary before its controller says so,
        and then only who leads with its fence open."""
        if self._member is not None:
            leads = self._member.memory.state is RoleState.PRIMARY and self._member.lease.is_open
            return "primary" if leads else "replica"
        return self._config.region.role if self._config.cluster is None else "replica"

    def _events(self) -> tuple[RegionEvent, ...]:
        """What happened in this process, and to the region's role also before it."""
        if self._member is None:
            return tuple(self._history)
        transitions = [
            RegionEvent(
                transition.at_us,
                transition.event,
                "primary" if transition.state in (RoleState.PRIMARY, RoleState.DEMOTING) else "replica",
                transition.epoch,
                f"now {transition.state}" + (f": {transition.why}" if transition.why else ""),
            )
            for transition in self._member.transitions
        ]
        return tuple(sorted([*transitions, *self._history], key=lambda event: event.at_us))

    def _listen_to_source(self) -> None:
        """A first copy moves no mark for as long as it takes; the rows it has copied show that it gets on."""
        if self.source is None:
            return
        report = self.source.report
        if report.heard_at is not None:
            self._board.lives(report.heard_at)
        # Only who leads knows the ledger's end by its own log: another region may write by now where this one does not.
        is_ledger = self._role() == "primary"
        if is_ledger and self.complete_at is not None and (complete_at := self.complete_at()) is not None:
            self._board.complete(complete_at)
        if report.copied_rows > self._copied_rows:
            self._board.progress.work("source", now())
        self._copied_rows = report.copied_rows

    def strand_state(self) -> StrandState:
        """The strand, now."""
        at_risk = None if self.at_risk is None else self.at_risk.view()
        quarantined = None if self.quarantine is None else self.quarantine.summary
        return StrandState(
            progress=self._board.progress.view(now()),
            epoch=self._epoch(),
            position=self._journal_head.position,
            applied_blocks=self.applied_blocks,
            settle=self._settle_view(),
            journal=self._journal_view(),
            verify=self.watch.view() if self.watch is not None else None,
            quarantined_statements=None if quarantined is None else quarantined.statements,
            held_keys={} if quarantined is None else quarantined.keys,
            lease_remaining_seconds=None if self._member is None else self._member.lease.remaining_seconds,
            acknowledge=None if self.acknowledgement is None else self.acknowledgement.view(),
            at_risk_blocks=None if at_risk is None else at_risk.blocks,
            at_risk_amounts={} if at_risk is None else {key: float(value) for key, value in at_risk.amounts.items()},
            # Without configured amounts every change would be of unknown amount: nothing is asked, so nothing is said.
            at_risk_unknown=None if at_risk is None or not self._config.failover.amounts else at_risk.unknown,
        )

    def _epoch(self) -> int:
        """The newest term that this region has led, or followed."""
        if self._member is not None:
            return self._member.memory.epoch
        return self._journal_head.position.epoch or self._config.region.epoch

    def _journal_view(self) -> JournalView | None:
        """The journal as its keeper saw it last: to look now would be I/O."""
        report = self.keeper.report if self.keeper is not None else None
        if report is None or self.regions is None:
            return None
        return JournalView(report, tuple(self.regions.all()), time.time_ns() // 1000)

    def _source_report(self) -> SourceReport | None:
        if self.source is not None:
            return dataclasses.replace(self.source.report)  # a copy: the source goes on writing into its own
        source = self._config.source
        if source is None or self._config.region.role != "primary":
            return None
        return SourceReport(source.kind, "serving" if self.ledger is not None and self.ledger.runs else "starting")

    def _settle_view(self) -> SettleView | None:
        if self.follower is None:
            return None
        return settle_view(self.follower.status(), self.follower.gap_counts, self.follower.spool_set_aside)


def _replica_view(config: Config, drifted_rows: int) -> ReplicaView | None:
    """The replica for the status, without credentials."""
    match config.replica:
        case SqliteReplicaSettings(path=path):
            return ReplicaView("sqlite", str(path), drifted_rows)
        case PostgresReplicaSettings() as postgres:
            fields = conninfo_to_dict(postgres.dsn.reveal())
            place = f"{fields.get('host', 'local')}:{fields.get('port', 5432)}/{fields.get('dbname', '')}"
            return ReplicaView("postgres", place, drifted_rows)
        case None:
            return None
