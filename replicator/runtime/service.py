"""READ FIRST: one region's sidecar, from start to stop.

    primary, captured     source ─▶ Capture ─▶ journal ─▶ Publisher ═ HTTP ═▶ the other regions
    primary, embedded     HTTP ─▶ Ledger ─▶ journal ─▶ Publisher ═ HTTP ═▶ the other regions
    replica               feed ─▶ Follower (settle buffer) ─▶ journal ─▶ Replay ─▶ replica; Publisher, too
    beside it, everywhere: history index · retention · copies, reads and verification over HTTP · metrics and status
    beside a replica:      its watch (checkpoints and scrubs) · quarantine, repair and resync when an operator asks
    in a cluster:          the controller, which holds the lease and changes the role

What lasts is in ``context``; what a role has is its part of the flow, in ``roles``. Without a ``[cluster]`` the role
that the configuration names runs from start to stop; with one, ``cluster/failover/controller`` decides, and changes it.

The stages share nothing but the journal and its ``JournalHead``: each runs by itself, is supervised by itself, and
starts from what is durable. So a sidecar that is killed at any instruction loses, doubles and reorders nothing.

Start: lock the data directory, open the journal, listen, then the stages. Stop (SIGTERM, SIGINT): a primary of a
cluster hands the lead over; then no new requests, each stage sees its step through, then the files are closed; after
the deadline the process ends hard, which is safe.

A stage is supervised (``replicator/supervise.py``): what can get better is waited for; what cannot halts that stage
alone and is shown, while everything else goes on. Any other exception is a bug and ends the process: whoever keeps it
running starts it again, from what is durable. Concrete parts are picked in ``wiring``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator

import trio

from replicator.cluster.failover.admission import Admission
from replicator.cluster.failover.namesake import refuse_namesake
from replicator.cluster.failover.serve import routes as failover_routes
from replicator.config import Config
from replicator.errors import Halted
from replicator.pipeline.copies.partial_copy import refuse_half
from replicator.pipeline.sources.base import SourceReport
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.runtime.controlled_region import controller
from replicator.runtime.identity import DirectoryIdentity, check_epoch, note, recognise
from replicator.runtime.primary_pipeline import CapturedPrimaryPipeline, EmbeddedPrimaryPipeline
from replicator.runtime.replica_pipeline import ReplicaPipeline
from replicator.runtime.role_pipeline import RolePipeline
from replicator.runtime.role_runner import RoleRunner, with_role_routes
from replicator.status.routes import ROLE_PATHS, STATUS_PATHS
from replicator.storage.data_dir import changed, identity, locked
from replicator.storage.journal.store import Journal
from replicator.transport.server import application, serve

log = logging.getLogger("replicator")

ShowCopy = Callable[[SourceReport], Awaitable[None]]


async def run(
    config: Config,
    show_copy: ShowCopy | None = None,
    new_identity: bool = False,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a region until it is told to stop. Raises ConfigError, Unavailable or Halted if it cannot start.

    ``show_copy`` runs beside a source and may show its first copy to whoever started the program. ``new_identity``: the
    data directory is this region's from now on, whoever's it was.
    """
    refuse_half(config.region.files)  # a copy that was not finished looks like a region, and is none
    # The lock first: two processes on one journal would each append behind the head that they know.
    with locked(config.region.files):
        identity = recognise(config, new=new_identity)
        await refuse_namesake(config)
        with _opened(Journal(config.region.files.journal)) as journal:
            check_epoch(config, journal)
            note(config.region.files, identity)  # behind the last refusal: a start that was refused has said nothing
            await Sidecar(config, journal, identity, show_copy).run(task_status)


class Sidecar:
    """A running region."""

    def __init__(
        self, config: Config, journal: Journal, identity: DirectoryIdentity, show_copy: ShowCopy | None
    ) -> None:
        self.config = config
        self.context = RegionContext(config, journal, identity.id)
        self.runner = RoleRunner(self._pipeline)
        self._show_copy = show_copy
        self._stopping = trio.Event()
        self.controller = None if config.cluster is None else controller(self.context, self.runner)

    async def run(self, task_status: trio.TaskStatus[str]) -> None:
        """Start everything, wait for the signal to stop, stop in order."""
        context = self.context
        await trio.to_thread.run_sync(context.history.open)
        lasting = context.routes()
        if self.controller is not None:
            lasting += failover_routes(self.controller)
            self.runner.admit = Admission(self.controller.member)
        listen = wiring.listen(self.config)
        # Built before the server listens: the first request already sees which stages this role has.
        first = self._pipeline(self.config) if self.controller is None else None
        public = ROLE_PATHS | (STATUS_PATHS if self.config.http.public_status else frozenset())
        app = application(with_role_routes(lasting, self.runner), listen.token, public)
        # Two nurseries: the server outlives the work, so that what waits for a stage is answered while that ends.
        # An address that is taken fails here, before any stage has begun.
        async with trio.open_nursery() as serving:
            (address,) = await serving.start(serve, app, listen, self._stopping.wait)
            async with trio.open_nursery() as working:
                working.start_soon(self._work, first)
                log.info("region %s, %s, listens at %s", self.config.region.name, self.config.region.role, address)
                task_status.started(address)
                await self._stop_signal()
                if self.controller is not None:
                    await self.controller.leave(self.config.stop.deadline_seconds / 2)
                self._stopping.set()  # no new requests: those that wait for a stage get their answer while it ends
                working.cancel_scope.cancel()
        end = context.journal_head.position
        log.info(
            "region %s stopped %s", self.config.region.name, f"at {end}" if end.sequence else "before its first block"
        )

    async def _work(self, first: RolePipeline | None) -> None:
        """Work for as long as the journal is where it was. If it is not, everything is halted, and shown as such: the
        server goes on, so that an operator can see why."""
        # A file that was deleted or replaced while it is open still takes what is written to it, fsync and all, and is
        # gone with the process. Only the identity of what has its name now shows that nothing is durable any more.
        path = self.config.region.files.journal
        begun = await trio.to_thread.run_sync(identity, path)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.runner.run)  # its nursery must be there before anybody launches a pipeline
            nursery.start_soon(self.context.keeper.run)
            if self.controller is not None:
                nursery.start_soon(self.controller.run)
            if first is not None:
                self.runner.launch(first)
            await changed(path, begun)
            pipeline = self.runner.pipeline  # once cancelled, the runner has none, and its board could not be found
            nursery.cancel_scope.cancel()
        gone = Halted(
            "data_dir_gone",
            "the journal was deleted or replaced while the sidecar ran",
            place=str(path),
            cure="stop the sidecar; then put the directory back as it was, or make this region anew",
        )
        log.error("everything halted: %s", gone)
        if pipeline is not None:
            pipeline.halt(gone)

    def _pipeline(self, config: Config) -> RolePipeline:
        """The part of the flow for the role in this configuration."""
        if config.region.role == "replica":
            return ReplicaPipeline(self.context, config, self._withdraw)
        ledger = wiring.captured_ledger(config)
        if ledger is not None:
            return CapturedPrimaryPipeline(self.context, config, ledger, self._show_copy)
        return EmbeddedPrimaryPipeline(self.context, config)

    def _withdraw(self) -> None:
        """Before anything is replayed: take back what a promotion has begun that was given up."""
        if self.controller is not None:
            self.controller.member.region.adapter.withdraw()

    async def _stop_signal(self) -> None:
        """Return when the process is told to stop. From then on the deadline runs."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                deadline = self.config.stop.deadline_seconds
                log.info("%s: stopping within %.0f s", signal.Signals(number).name, deadline)
                _end_after(deadline)
                return


def _end_after(seconds: float) -> None:
    """End the process hard if it has not stopped by then; what is durable does not depend on an orderly end."""

    # A thread of its own: what holds up the stop may be holding up trio's loop as well.
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
