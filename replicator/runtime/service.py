"""READ FIRST: one region's sidecar, from start to stop.

    primary, PostgreSQL   source ─▶ Capture ─▶ journal ─▶ Publisher ═ HTTP ═▶ the other regions
    primary, embedded     HTTP ─▶ Ledger ─▶ journal ─▶ Publisher ═ HTTP ═▶ the other regions
    replica               feed ─▶ Follower (settle buffer) ─▶ journal ─▶ Replay ─▶ replica; Publisher, too
    beside it, everywhere: history index · retention · copies, reads and verification over HTTP · metrics and status
    beside a replica:      its watch (checkpoints and scrubs) · quarantine, repair and resync when an operator asks
    in a cluster:          the office, which holds the lease and swaps the halves

What lasts is in ``core``; what a role has is a half of the flow, in ``halves``. Without a ``[cluster]`` the half that
the configuration names runs from start to stop; with one, ``cluster/failover/controller`` decides, and swaps it.

The stages share nothing but the journal and its ``Tail``: each runs by itself, is supervised by itself, and starts from
what is durable. That is why a sidecar that is killed at any instruction loses, doubles and reorders nothing.

Start: lock the data directory, open the journal, listen, then the stages. Stop (SIGTERM, SIGINT): no new requests, each
stage sees its step through, then the files are closed; after the deadline the process ends hard, which is safe.
Concrete parts are picked in ``runtime/wiring.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator

import trio

from replicator.cluster.failover.controller import Controller
from replicator.config import Config, PostgresSourceSettings
from replicator.errors import Halted
from replicator.pipeline.copies.partial_copy import refuse_half
from replicator.pipeline.sources.base import SourceReport
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.runtime.roles.pipeline import RolePipeline
from replicator.runtime.roles.primary import EmbeddedPrimaryPipeline, PostgresPrimaryPipeline
from replicator.runtime.roles.replica import ReplicaPipeline
from replicator.runtime.roles.runner import RoleRunner, with_half
from replicator.storage.data_dir import changed, identity, locked
from replicator.storage.journal.store import Journal
from replicator.transport.server import application, serve

log = logging.getLogger("replicator")

ShowCopy = Callable[[SourceReport], Awaitable[None]]


async def run(
    config: Config,
    show_copy: ShowCopy | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a region until it is told to stop. Raises ConfigError, Unavailable or Halted if it cannot start.

    ``show_copy`` runs beside a source and may show its first copy to whoever started the program.
    """
    refuse_half(config.region.data_dir)
    with locked(config.region.data_dir), _opened(Journal(config.region.journal_path)) as journal:
        await Sidecar(config, journal, show_copy).run(task_status)


class Sidecar:
    """A running region."""

    def __init__(self, config: Config, journal: Journal, show_copy: ShowCopy | None) -> None:
        self.config = config
        self.core = RegionContext(config, journal)
        self.running = RoleRunner()
        self._show_copy = show_copy
        self._stopping = trio.Event()
        self.office = None if config.cluster is None else Controller(self.core, self.running, self._half)

    async def run(self, task_status: trio.TaskStatus[str]) -> None:
        """Start everything, wait for the signal to stop, stop in order."""
        core = self.core
        await trio.to_thread.run_sync(core.history.open)
        lasting = [*core.routes(), *(self.office.routes() if self.office else ())]
        listen = wiring.listen(self.config)
        first = None if self.office else self._half(self.config)
        app = application(with_half(lasting, self.running), listen.token, public_status=self.config.http.public_status)
        async with trio.open_nursery() as serving:
            (address,) = await serving.start(serve, app, listen, self._stopping.wait)
            async with trio.open_nursery() as working:
                working.start_soon(self._work, first)
                log.info("region %s, %s, listens at %s", self.config.region.name, self.config.region.role, address)
                task_status.started(address)
                await self._stop_signal()
                self._stopping.set()
                working.cancel_scope.cancel()
        log.info("region %s stopped at %s", self.config.region.name, core.tail.head)

    async def _work(self, first: RolePipeline | None) -> None:
        """Work for as long as the journal is where it was: a file without a name takes what is written to it, durably
        as it seems, and is gone with the process."""
        path = self.config.region.journal_path
        begun = await trio.to_thread.run_sync(identity, path)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.running.run)
            nursery.start_soon(self.core.retaining.run)
            if first is not None:
                self.running.start(first)
            if self.office is not None:
                nursery.start_soon(self.office.run)
            await changed(path, begun)
            half = self.running.half
            nursery.cancel_scope.cancel()
        gone = Halted(
            "data_dir_gone",
            "the journal was deleted or replaced while the sidecar ran",
            place=str(path),
            cure="stop the sidecar; then put the directory back as it was, or make this region anew",
        )
        log.error("everything halted: %s", gone)
        if half is not None:
            half.halt(gone)

    def _half(self, config: Config) -> RolePipeline:
        """The half of the flow for the role in this configuration."""
        if config.region.role == "replica":
            return ReplicaPipeline(self.core, config)
        if isinstance(config.source, PostgresSourceSettings):
            return PostgresPrimaryPipeline(self.core, config, self._show_copy)
        return EmbeddedPrimaryPipeline(self.core, config)

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
