"""READ FIRST: one region's sidecar, from start to stop.

    primary, PostgreSQL   source ─▶ Capture ─▶ journal ─▶ Publisher ═ HTTP ═▶ the other regions
    primary, embedded     HTTP ─▶ Ledger ─▶ journal ─▶ Publisher ═ HTTP ═▶ the other regions
    replica               feed ─▶ Follower (settle buffer) ─▶ journal ─▶ Replay ─▶ replica; Publisher, too
    beside it, everywhere: history index · retention · copies, reads and verification over HTTP · metrics and status
    beside a replica:      its watch (checkpoints and scrubs) · quarantine, repair and resync when an operator asks

The stages share nothing but the journal and its ``Tail``: each runs by itself, is supervised by itself, and starts from
what is durable. That is why a sidecar that is killed at any instruction loses, doubles and reorders nothing.

Start: lock the data directory, open the journal, listen, then the stages. Stop (SIGTERM, SIGINT): no new requests, each
stage sees its step through, then the files are closed; after the deadline the process ends hard, which is safe.
Concrete parts are picked in ``parts.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio
from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute, Route

from replicator import parts
from replicator.acknowledge import Acknowledgement
from replicator.block import Block
from replicator.board import Board, StageTrouble, now
from replicator.config import Config, EmbeddedSource, PostgresSource
from replicator.copying.contents import CopyReader
from replicator.copying.half import refuse_half
from replicator.copying.serve import Copies
from replicator.datadir import changed, identity, locked
from replicator.errors import Halted
from replicator.failover.at_risk import AtRisk
from replicator.failover.rows_before import RowsBefore
from replicator.feed.follow import Follower
from replicator.feed.gaps import routes as gap_routes
from replicator.feed.publish import Publisher
from replicator.feed.regions import routes as region_routes
from replicator.http import application, serve
from replicator.journal.capture import Capture
from replicator.journal.history import HistoryIndex
from replicator.journal.indexing import Indexing
from replicator.journal.regions import KnownRegions
from replicator.journal.retaining import Retaining
from replicator.journal.store import Journal
from replicator.journal.tail import Tail
from replicator.ledger.api import routes as api_routes
from replicator.ledger.ledger import Ledger
from replicator.ledger.reads import Reads
from replicator.marks import StageName
from replicator.observe.http import routes as observe_routes
from replicator.observe.metrics import Metrics
from replicator.position import Position
from replicator.progress import Progress
from replicator.replay.apply import Replayer
from replicator.replay.loop import Hold, Replay
from replicator.replay.serve import Desk
from replicator.replay.serve import routes as quarantine_routes
from replicator.replicas.base import Applied, SetSequence
from replicator.rewrite.repair import Repairs
from replicator.rewrite.resync import Resync
from replicator.rewrite.rightful import Rightful
from replicator.rewrite.serve import Rewriting
from replicator.rewrite.serve import routes as rewrite_routes
from replicator.sources.base import SourceReport
from replicator.sources.postgres import PostgresSource as Postgres
from replicator.sources.postgres.moments import PostgresMoments
from replicator.supervise import Backoff, supervise
from replicator.verify.evidence import JournalWitness
from replicator.verify.held import HeldMoments
from replicator.verify.moments import LedgerMoments, Moments, ReplicaMoments
from replicator.verify.serve import routes as verify_routes
from replicator.verify.side import LocalSide
from replicator.verify.watching import Watching
from replicator.view import View

log = logging.getLogger("replicator")

_FOR_REPLICAS = [*quarantine_routes(None), *rewrite_routes(None)]  # a primary answers that it is none
Parts = tuple[list[Callable[[], Awaitable[None]]], Sequence[BaseRoute]]  # what a role runs, and what it serves


async def run(
    config: Config,
    show_copy: Callable[[SourceReport], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a region until it is told to stop. Raises ConfigError, Unavailable or Halted if it cannot start.

    ``show_copy`` runs beside a source and may show its first copy to whoever started the program.
    """
    refuse_half(config.region.data_dir)
    with locked(config.region.data_dir), _opened(Journal(config.region.journal_path)) as journal:
        await Sidecar(config, journal, show_copy).run(task_status)


class Sidecar:
    """The parts of a running region, joined."""

    def __init__(
        self, config: Config, journal: Journal, show_copy: Callable[[SourceReport], Awaitable[None]] | None
    ) -> None:
        self.config = config
        self._show_copy = show_copy
        self.journal = journal
        strand = config.region.strand
        last = journal.block(strand, journal.head(strand).sequence)
        self.tail = Tail(journal.head(strand), last.header.committed_at if last else 0)
        self.applied = Tail(journal.base(strand))
        self.board = Board(Progress(strand, _stages(config), now()))
        self.history = HistoryIndex(config.region.data_dir / "history.sqlite3", journal)
        self.view = View(config, journal, self.tail, self.board)
        self.regions = KnownRegions(journal, strand)
        self.retaining = Retaining(journal, strand, parts.retention(config), self.regions)
        self.view.regions, self.view.retaining = self.regions, self.retaining
        self.publisher = Publisher(
            journal, {strand: self.tail}, config.feed.heartbeat_seconds, self.view.source_heard, {strand: self.regions}
        )
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, self.view)
        self.view.publisher = self.publisher
        self._open_reader = parts.reader(config, lambda: journal.definitions(strand))
        self._stopping = trio.Event()

    async def run(self, task_status: trio.TaskStatus[str]) -> None:
        """Start everything, wait for the signal to stop, stop in order."""
        await trio.to_thread.run_sync(self.history.open)
        if self.tail.head.sequence:
            self.board.progress.advance("settled", self.tail.head.sequence, self.tail.committed_at, now())
        stages, routes = self._role()
        gaps = gap_routes(self.view.follower)
        known = region_routes(self.regions, self.view)
        routes = [*observe_routes(self.view, self.registry), *self.publisher.routes(), *gaps, *known, *routes]
        listen = parts.listen(self.config)
        app = application(routes, listen.token, public_status=self.config.http.public_status)
        async with trio.open_nursery() as serving:
            (address,) = await serving.start(serve, app, listen, self._stopping.wait)
            async with trio.open_nursery() as running:
                running.start_soon(self._work, [*stages, *self._beside_the_flow()])
                log.info("region %s, %s, listens at %s", self.config.region.name, self.config.region.role, address)
                task_status.started(address)
                await self._stop_signal()
                self._stopping.set()
                running.cancel_scope.cancel()
        self.reads.close()
        log.info("region %s stopped at %s", self.config.region.name, self.tail.head)

    async def _work(self, stages: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Run the stages for as long as the journal is where it was: a file without a name takes what is written to it,
        durably as it seems, and is gone with the process."""
        path = self.config.region.journal_path
        begun = await trio.to_thread.run_sync(identity, path)
        async with trio.open_nursery() as nursery:
            for stage in stages:
                nursery.start_soon(stage)
            await changed(path, begun)
            nursery.cancel_scope.cancel()
        gone = Halted(
            "data_dir_gone",
            "the journal was deleted or replaced while the sidecar ran",
            place=str(path),
            cure="stop the sidecar; then put the directory back as it was, or make this region anew",
        )
        log.error("everything halted: %s", gone)
        for name in _stages(self.config):
            StageTrouble(self.board.progress, name).halt(gone)

    def _role(self) -> Parts:
        """The stages and routes of the role that this region has."""
        if self.config.region.role == "replica":
            return self._replica()
        match self.config.source:
            case PostgresSource() as source:
                return self._postgres_primary(source)
            case EmbeddedSource() as source:
                return self._embedded_primary(source)
            case None:
                raise AssertionError("a primary has a source")

    # -- roles

    def _postgres_primary(self, settings: PostgresSource) -> Parts:
        acknowledgement = self._acknowledgement()
        source = Postgres(parts.postgres_options(settings, synchronous=acknowledgement is not None))
        self.view.source = source
        capture = Capture(source, self.journal, self.tail, self.config.region.epoch, self._captured, acknowledgement)
        dsn = settings.conninfo()
        moments = PostgresMoments(dsn, self.journal, self.tail, source.report, capture.stored_so_far)
        held = PostgresMoments(dsn, self.journal, self.tail, source.report, capture.stored_so_far, locking=True)
        self.copies = self._copies(held, lambda reader: parts.primary_sequences(settings))
        routes = [*self._verify_routes(moments), *_FOR_REPLICAS, *self.copies.routes(), *self._api(None, self.tail)]
        stages: list[Callable[[], Awaitable[None]]] = [
            lambda: self._supervised("source", capture.run_once, self.board.source)
        ]
        if self._show_copy is not None:
            show_copy = self._show_copy
            stages.append(lambda: show_copy(source.report))
        return stages, routes

    def _embedded_primary(self, settings: EmbeddedSource) -> Parts:
        region = self.config.region
        options = parts.ledger_options(self.config, settings)
        ledger = Ledger(
            self.journal,
            region.strand,
            region.epoch,
            options,
            on_applied=self._applied,
            on_committed=self._committed,
            on_waiting=self.board.apply.wait,
            acknowledges=self._acknowledgement(),
        )
        self.view.ledger = ledger
        declarations = parts.declarations(settings)
        moments = LedgerMoments(region.strand, self._open_reader)
        self.copies = self._copies(moments)
        api = self._api(ledger, self.applied)
        routes = [*self._verify_routes(moments), *_FOR_REPLICAS, *self.copies.routes(), *api]
        return [lambda: self._supervised("apply", lambda: ledger.run(declarations), self.board.apply)], routes

    def _acknowledgement(self) -> Acknowledgement | None:
        """Who makes writers wait for other regions, if they do."""
        rule, at_risk = parts.acknowledge_rule(self.config), self._at_risk()
        acknowledgement = None if rule is None else Acknowledgement(rule, self.tail.head.sequence)

        def reported(strand: str, region: str, sequence: int) -> None:
            at_risk.reported(region, sequence)
            if acknowledgement is not None:
                acknowledgement.reported(region, sequence)

        if acknowledgement is not None:
            acknowledgement.on_change = lambda change: self.view.event(f"acknowledgement {change}")
        self.publisher.on_report = reported
        self.publisher.wants_reports = lambda: acknowledgement is not None or bool(self.config.failover.amounts)
        self.view.acknowledgement = acknowledgement
        return acknowledgement

    def _at_risk(self) -> AtRisk:
        """What would be lost with this primary."""
        strand = self.config.region.strand
        rows = RowsBefore(self.history, strand) if self.config.replay.history else None
        known = {region.name: region.sequence for region in self.regions.all() if region.forgotten is None}
        rules = parts.amount_rules(self.config)
        self.view.at_risk = at_risk = AtRisk(self.journal, self.tail, rules, rows, reports=known)
        return at_risk

    def _replica(self) -> Parts:
        config = self.config
        replica = parts.replica(config)
        self.view.replica = replica
        follower = Follower(
            parts.upstream(config),
            parts.settle_config(config),
            config.region.spool_path,
            self.journal,
            self.tail,
            self.board,
            self._backoff,
        )
        self.view.follower = follower
        batch = config.replay
        replayer = Replayer(
            self.journal,
            replica,
            config.region.strand,
            batch.batch_bytes,
            batch.batch_blocks,
            parts.replay_policy(config),
        )
        self.view.quarantine = replayer.quarantine
        hold = Hold()
        locking = parts.reader(config, lambda: {}, locking=True)
        replay = Replay(replayer, self.tail, hold, self._applied, self._opened)
        self.copies = self._copies(ReplicaMoments(replay, hold, self.applied, locking))
        moments = ReplicaMoments(replay, hold, self.applied, self._open_reader)
        self.view.watching = watching = self._watching(moments)
        rewriting = self._rewriting(replay)
        desk = Desk(config.region.strand, replay, self._open_reader, self.journal)
        return [
            lambda: self._supervised("settle", follower.run_once, self.board.settle),
            lambda: self._supervised("apply", replay.run_once, self.board.apply),
            watching.run,
            rewriting.resync.run,
        ], [
            *self._verify_routes(moments),
            *quarantine_routes(desk),
            *rewrite_routes(rewriting),
            *self.copies.routes(),
            *self._api(None, self.applied),
        ]

    def _copies(
        self,
        moments: Moments,
        sequences: Callable[[CopyReader], list[SetSequence]] = lambda reader: reader.sequences(),
    ) -> Copies:
        """Copies of this region, for others that are made anew."""
        strand, seconds = self.config.region.strand, self.config.copying.hold_seconds
        return Copies(self.journal, strand, moments, seconds, sequences)

    def _verify_routes(self, moments: Moments) -> list[Route]:
        """Comparisons from outside; the moments that are held for them end with the sidecar."""
        self.held_moments = HeldMoments(self.config.region.name, moments, self._witness())
        return verify_routes(moments, self.held_moments, self._ask_for_scrub)

    def _ask_for_scrub(self) -> None:
        if self.view.watching is not None:
            self.view.watching.ask_for_scrub()

    def _witness(self) -> JournalWitness:
        history = self.history if self.config.replay.history else None
        return JournalWitness(self.journal, history, self.config.region.strand)

    def _watching(self, moments: Moments) -> Watching:
        """The watch over a replica: checkpoints and scrubs."""
        witness = self._witness()
        return Watching(
            LocalSide(self.config.region.name, moments, witness),
            parts.primary_endpoint(self.config),
            self.journal,
            self._open_reader,
            self.tail,
            self.applied,
            witness,
            parts.watch_plan(self.config),
            self.board.verified,
            self._backoff,
        )

    def _rewriting(self, replay: Replay) -> Rewriting:
        """What sets keys of the replica to what the journal says, when an operator asks for it."""
        directory, strand = self.config.region.data_dir, self.config.region.strand
        rightful = [Rightful(self.journal, self.history, strand) for _ in range(2)]  # one each: they run side by side
        repairs = Repairs(self.journal, rightful[0], replay, strand, directory / "repairs")
        file = directory / "resync.sqlite3"
        resync = Resync(file, self.journal, rightful[1], replay, self.applied, strand, self._backoff)
        self.retaining.needs("a resync that is under way", resync.needs)
        return Rewriting(repairs, resync, self._ask_for_scrub)

    def _api(self, ledger: Ledger | None, visible: Tail) -> list[Route]:
        """Reads everywhere, writes where there is a ledger; ``visible`` is how far readers see."""

        async def wait_applied(position: Position, seconds: float) -> bool:
            with trio.move_on_after(seconds):
                await visible.beyond(position.sequence - 1)
            return visible.head.sequence >= position.sequence

        history = self.history if self.config.replay.history else None
        self.reads = Reads(self.config.region.strand, self._open_reader, self.journal, history, wait_applied)
        primary = self.config.follow.primary if self.config.follow else None
        return api_routes(ledger, self.reads, lambda: primary)

    def _backoff(self) -> Backoff:
        follow = self.config.follow
        least, most = (follow.reconnect_min_seconds, follow.reconnect_max_seconds) if follow else (0.2, 15.0)
        return Backoff(least, most, random.Random())

    async def _supervised(self, name: str, run_once: Callable[[], Awaitable[None]], trouble: StageTrouble) -> None:
        await supervise(name, run_once, trouble, self._backoff())

    # -- what the stages report

    def _captured(self, blocks: Sequence[Block]) -> None:
        self.board.captured(blocks[-1].header)

    def _committed(self, last: Block) -> None:
        self.tail.moved(last.position, last.header.committed_at)
        if self.view.acknowledgement is not None:
            self.view.acknowledgement.stored(last.header.sequence)

    def _opened(self, applied: Applied) -> None:
        self.board.opened(applied)
        if self.view.watching is not None:
            self.view.watching.opened(applied.position.sequence)

    def _applied(self, applied: Applied) -> None:
        self.applied.moved(applied.position, applied.committed_at)
        self.view.applied_blocks = applied.blocks
        self.board.applied(applied)

    def _beside_the_flow(self) -> list[Callable[[], Awaitable[None]]]:
        acknowledging = [part.run for part in (self.view.acknowledgement, self.view.at_risk) if part is not None]
        self._own_needs()
        if not self.config.replay.history:
            return [self.held_moments.run, self.retaining.run, self.copies.run, *acknowledging]
        visible = self.tail if self.view.replica is None else self.applied
        indexing = Indexing(self.history, self.tail, visible, self.publisher.slowest, self._backoff)
        beside = [self.held_moments.run, indexing.run, indexing.sweep, self.retaining.run, self.copies.run]
        return [*beside, *acknowledging]

    def _own_needs(self) -> None:
        """Who of this region's own parts reads the journal, and may do so again after a loss of power."""
        strand = self.config.region.strand
        for who, sequence in parts.durable(self.config):
            self.retaining.needs(who, sequence)
        if self.config.replay.history:
            self.retaining.needs("its own index of the past", lambda: self.history.indexed(strand))

    async def _stop_signal(self) -> None:
        """Return when the process is told to stop. From then on the deadline runs."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                deadline = self.config.stop.deadline_seconds
                log.info("%s: stopping within %.0f s", signal.Signals(number).name, deadline)
                _end_after(deadline)
                return


def _stages(config: Config) -> list[StageName]:
    if config.region.role == "replica":
        return ["feed", "settle", "apply"]
    return ["source"] if isinstance(config.source, PostgresSource) else ["apply"]


def _end_after(seconds: float) -> None:
    """End the process hard if it has not stopped by then; what is durable does not depend on an orderly end."""

    def end() -> None:
        log.error("not stopped within %.0f s: ending now", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


@contextlib.contextmanager
def _opened(journal: Journal) -> Iterator[Journal]:
    journal.open()
    try:
        yield journal
    finally:
        journal.close()
