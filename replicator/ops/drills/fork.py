"""A fork of a standby: a copy of it at one exact position, in a place of its own, that can be promoted for trial.

    copy ─▶ drain (what the standby has since) ─▶ compare ─▶ promote ─▶ write ─▶ throw away

Guarantee: nothing of the deployment is written to, and no region hears of the fork: it serves no feed, reports no
position, asks no lease store. Its epoch exists in its own journal only, which is marked as a rehearsal. The steps are
done by the very code that a promotion runs. What throwing it away takes is noted before it is made.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import trio
from psycopg import conninfo

from replicator.cluster.promotion import PostgresRole, append_epoch
from replicator.config import PostgresSourceSettings
from replicator.config.roles import source_of
from replicator.errors import Unavailable
from replicator.format.block import Block
from replicator.format.position import Position
from replicator.format.wire import Frame, StagedPart
from replicator.ledger.ledger import Ledger
from replicator.ledger.moments import LedgerMoments
from replicator.ops.bootstrap.bootstrap import Bootstrap, CopyProgress
from replicator.ops.drills.fork_place import MARK, ForkPlace, create_database, scratch_config
from replicator.ops.drills.fork_writers import EmbeddedFork, PostgresFork
from replicator.pipeline.feed.client import FeedClient, Upstream
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import Reader
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.runtime import wiring
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal
from replicator.transport.endpoint import Endpoint
from replicator.verify.evidence import JournalWitness
from replicator.verify.side import LocalSide

BATCH_BYTES, BATCH_BLOCKS = 8_000_000, 5_000
CAPTURE_SECONDS = 30.0


class ScratchFork:
    """One fork. The calls come in the order of the picture above; ``close`` it, then ``discard``."""

    def __init__(self, where: ForkPlace, place: Endpoint) -> None:
        self.where, self._place = where, place
        self.report = CopyProgress()
        self.config = scratch_config(where, place)
        self.journal = Journal(self.config.region.files.journal)
        self._upstream = Upstream(place.url, self.config.region.name, place.token, place.ca_file)
        self._open_reader: Callable[[], Reader] = wiring.reader(self.config, lambda: {})

    async def copy(self, rows_per_second: int | None) -> Position:
        """Copy the standby as it is at one moment; gives its position. Raises ReplicatorError."""
        if self.where.server is not None:
            await trio.to_thread.run_sync(create_database, self.where.server, self.where.database)
        copying = _UnannouncedCopy(self.config, self._upstream, replace=False, rate=rows_per_second, report=self.report)
        position = await copying.run()
        await trio.to_thread.run_sync(self._open, position)
        return position

    def _open(self, position: Position) -> None:
        self.journal.open()
        self.journal.set_note(MARK, self.where.name)

    async def drain(self, until: Position) -> int:
        """Fetch and apply what the standby has beyond the copy; gives how many blocks that were."""
        strand = self.where.strand
        begun = self.journal.head(strand).sequence
        if begun < until.sequence:
            async with (
                FeedClient(self._upstream) as client,
                client.range(strand, begun + 1, until.sequence) as frames,
            ):
                async for batch in frames.batches():
                    await trio.to_thread.run_sync(self._store, batch)
        if self.journal.head(strand) != until:
            message = f"the fork came to {self.journal.head(strand)}, the standby is at {until}"
            raise Unavailable("not_drained", message, place=self._place.url, cure="try again")
        await trio.to_thread.run_sync(self._apply, until.sequence)
        return until.sequence - begun

    def _store(self, frames: Sequence[Frame]) -> None:
        strand = self.where.strand
        staged = [(frame.sequence, frame.number, frame.part) for frame in frames if isinstance(frame, StagedPart)]
        if staged:
            self.journal.stage(strand, staged)
        blocks = [frame for frame in frames if isinstance(frame, Block)]
        if blocks:
            self.journal.accept(strand, blocks)

    def _apply(self, until: int) -> None:
        replica = wiring.replica(self.config)
        replayer = Replayer(self.journal, replica, self.where.strand, BATCH_BYTES, BATCH_BLOCKS)
        try:
            applied = replayer.open()
            while applied.position.sequence < until:
                applied = replayer.step(until)
        finally:
            replica.close()

    def side(self) -> LocalSide:
        """The fork as a side of a comparison."""
        strand = self.where.strand
        return LocalSide("fork", LedgerMoments(strand, self._open_reader), JournalWitness(self.journal, None, strand))

    async def close(self) -> None:
        """Let go of the files."""
        await trio.to_thread.run_sync(self.journal.close)

    # -- promoted

    async def promote(self, epoch: int) -> None:
        """The steps of a promotion that are the ledger's: those of its database, then the epoch's first block."""
        if self.where.server is None:
            now_us = time.time_ns() // 1000
            await trio.to_thread.run_sync(append_epoch, self.journal, self.where.strand, epoch, now_us)
            return
        await trio.to_thread.run_sync(self._role().promote, epoch)

    def _role(self) -> PostgresRole:
        return PostgresRole(self._dsn(), self.journal, self.where.strand, self._options())

    def _dsn(self) -> str:
        assert self.where.server is not None
        return conninfo.make_conninfo(self.where.server, dbname=self.where.database)

    def _options(self) -> PostgresOptions:
        """The source's options as the standby would have them, with a slot of the fork's own."""
        source = None if self.where.standby is None else source_of(self.where.standby)
        if isinstance(source, PostgresSourceSettings):
            options = wiring.postgres_options(source)
            return dataclasses.replace(options, dsn=self._dsn(), slot=self.where.database, tables=None)
        return PostgresOptions(self._dsn(), self.where.database)

    def embedded(self, epoch: int, table: str) -> EmbeddedFork:
        """The embedded ledger on the fork's state."""
        state = self.config.replica
        assert state is not None
        source = source_of(self.config)
        assert source is not None
        assert source.kind == "embedded"
        options = wiring.ledger_options(self.config.model_copy(update={"source": source}), source)
        return EmbeddedFork(Ledger(self.journal, self.where.strand, epoch, options), table, self._open_reader)

    def postgres(self, table: str) -> PostgresFork:
        """The fork's database, as an application sees it."""
        return PostgresFork(self._dsn(), table)

    async def capture(self) -> None:
        """Bring what applications have written into the fork's journal, through its slot."""
        head = JournalHead(self.journal.head(self.where.strand))
        await self._role().capture_rest(head, CAPTURE_SECONDS)


class _UnannouncedCopy(Bootstrap):
    """A copy that nobody will follow from: the standby is not told to keep its journal for it."""

    async def _check_followed(self, position: Position) -> None:
        await trio.lowlevel.checkpoint()
