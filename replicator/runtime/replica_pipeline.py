"""The replica's part of the flow.

feed ─▶ Follower (settle buffer) ─▶ journal ─▶ Replay ─▶ replica
beside it: the watch (checkpoints and scrubs) · quarantine, repair and resync when an operator asks
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.config import Config
from replicator.errors import Unavailable
from replicator.pipeline.feed.follow import Follower
from replicator.pipeline.feed.gaps import routes as gap_routes
from replicator.pipeline.replay.loop import ReplayHold, ReplayLoop
from replicator.pipeline.replay.moments import ReplicaMoments
from replicator.pipeline.replay.quarantine_routes import QuarantineAdmin
from replicator.pipeline.replay.quarantine_routes import routes as quarantine_routes
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import AppliedMark
from replicator.pipeline.replicas.moments import Moments
from replicator.pipeline.sources.serve import routes as recopy_routes
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.runtime.identity import DatabaseNote
from replicator.runtime.role_pipeline import RolePipeline
from replicator.storage.journal.head import JournalHead
from replicator.transport.endpoint import Endpoint
from replicator.verify.divergence_file import DivergenceFile
from replicator.verify.repair.expected_row import ExpectedRows
from replicator.verify.repair.key_repair import KeyRepair
from replicator.verify.repair.resync import Resync
from replicator.verify.repair.serve import RepairParts
from replicator.verify.repair.serve import routes as repair_routes
from replicator.verify.side import LocalSide
from replicator.verify.watch import ReplicaWatch


class ReplicaPipeline(RolePipeline):
    """Follows another region. Without ``[follow]`` it applies what it has, until it is told whom to follow."""

    stage_names = ("feed", "settle", "apply")

    def __init__(self, context: RegionContext, config: Config, prepare: Callable[[], None] = lambda: None) -> None:
        """``prepare`` makes the database fit to be replayed into."""
        super().__init__(context, config)
        self.replica = context.status.replica = wiring.replica(config, DatabaseNote(context.data_dir))
        self.follower = context.status.follower = Follower(
            wiring.upstream(config, None, context.id),
            wiring.settle_config(config),
            config.region.files.spool,
            context.journal,
            context.journal_head,
            self.board,
            context.backoff,
        )
        replayer = self._replayer(prepare)
        context.status.quarantine = replayer.quarantine
        # One hold for copies and comparisons: replay pauses between two steps for as long as any of them has a moment.
        hold = ReplayHold()
        self.replay = replay = ReplayLoop(replayer, context.journal_head, hold, self._on_applied, self._on_opened)
        locking = wiring.reader(config, lambda: {}, locking=True, damage=context.damage)
        self.copies = self._copies(ReplicaMoments(replay, hold, self.applied, locking))
        moments = ReplicaMoments(replay, hold, self.applied, self._open_reader)
        self.watch = context.status.watch = self._replica_watch(moments)
        self._drifted = 0
        repairing = self._repair_parts(replay)
        admin = QuarantineAdmin(self.strand, replay, self._open_reader, context.journal)
        self.stages = [
            lambda: self._supervised("settle", self.follower.run_once, self.board.settle),
            lambda: self._supervised("apply", replay.run_once, self.board.apply, wiring.derived_file(config)),
            self.watch.run,
            repairing.resync.run,
        ]
        self.routes = [
            *self._verify_routes(moments, self.watch.ask_for_scrub),
            *quarantine_routes(admin),
            *repair_routes(repairing),
            *gap_routes(self.follower),
            *recopy_routes(None),
            *self.copies.routes(),
            *self._api(None, self.applied),
        ]

    def _replayer(self, prepare: Callable[[], None]) -> Replayer:
        batch, journal = self.config.replay, self.context.journal
        limits = batch.batch_bytes, batch.batch_blocks
        return Replayer(journal, self.replica, self.strand, *limits, wiring.replay_policy(self.config), prepare)

    def _replica_watch(self, moments: Moments) -> ReplicaWatch:
        """The watch over the replica: checkpoints and scrubs."""
        context, witness = self.context, self._witness()
        return ReplicaWatch(
            LocalSide(self.config.region.name, moments, witness),
            self._primary,
            context.journal,
            self._open_reader,
            context.journal_head,
            self.applied,
            witness,
            wiring.watch_plan(self.config),
            DivergenceFile(context.data_dir.divergence),
            self.board.verified,
            context.backoff,
        )

    def _primary(self) -> Endpoint:
        """The primary that this region is compared with now."""
        endpoint = wiring.primary_endpoint(self.config, self.follower.upstream_url)
        if endpoint is None:
            cure = "it goes on once there is a primary"
            raise Unavailable("no_primary", "no primary is known to compare with", place=self.strand, cure=cure)
        return endpoint

    @property
    def applied_sequence(self) -> int:
        """The last block that the replica has."""
        return self.applied.position.sequence

    @property
    def is_drained(self) -> bool:
        """Whether all that was received durably is in the journal, and nothing more can arrive."""
        return self.follower.is_drained

    @property
    def heard_at(self) -> float | None:
        """When the feed was heard last, by trio's clock."""
        return self.follower.heard_at

    @property
    def heard_head(self) -> int:
        """How far the region that is followed said that it is."""
        return self.follower.heard_head

    def forget_head(self) -> None:
        """What was heard of its head counts no more."""
        self.follower.heard_head = 0

    def verify_now(self) -> None:
        """Have what was applied verified without waiting for the next checkpoint."""
        self.watch.prove()

    @property
    def refused(self) -> str:
        """Why the region that is followed gives nothing, for a reason that no retry cures; empty: it does."""
        trouble = self.board.progress.trouble("feed")
        return "" if trouble is None or isinstance(trouble, Unavailable) else trouble.reason

    def follow(self, url: str | None) -> None:
        """Follow the region at this address from now on, or nobody."""
        self.board.progress.resume("feed")  # what another primary refused says nothing of this one
        self.follower.follow(None if url is None else wiring.upstream(self.config, url, self.context.id))

    def _repair_parts(self, replay: ReplayLoop) -> RepairParts:
        """What sets keys of the replica to what the journal says, when an operator asks for it."""
        context, strand = self.context, self.strand
        # One each: a repair and a resync may run side by side, each in a thread of its own.
        for_repair, for_resync = (ExpectedRows(context.journal, context.history, strand) for _ in range(2))
        repairs = KeyRepair(context.journal, for_repair, replay, strand, context.data_dir)
        file = context.data_dir.resync
        resync = Resync(file, context.journal, for_resync, replay, self.applied, strand, context.backoff)
        context.keeper.needs("a resync that is under way", resync.needs)
        return RepairParts(repairs, resync, self.watch.ask_for_scrub)

    def close(self) -> None:
        """Let go of the replica, too: a promotion needs it for itself."""
        super().close()  # readers first: an open snapshot would keep what the replica's next owner wants to change
        self.replica.close()

    def _visible(self) -> JournalHead:
        return self.applied

    def _on_applied(self, applied: AppliedMark) -> None:
        super()._on_applied(applied)
        drifted = self.replica.drifted_rows
        if (
            drifted > self._drifted
        ):  # somebody else writes here: what replay has met is put right, the rest is not known
            self._drifted = drifted
            self.watch.ask_after_drift()

    def _on_opened(self, applied: AppliedMark) -> None:
        self.board.opened(applied)  # before anything is applied: a replica that lost its last blocks sets marks back
        self.watch.opened(applied.position.sequence)
