"""Two regions whose chains part: a journal with its index and its replica each, and a feed of one of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from replicator.cluster.rejoin.fork import Fork, find_fork
from replicator.cluster.rejoin.rewind import Rewind
from replicator.cluster.rejoin.seal import OrphanSealer
from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft
from replicator.format.digest import Digest, row_hash
from replicator.format.position import Position
from replicator.format.statement import pack_define
from replicator.pipeline.feed.client import FeedClient, Upstream
from replicator.pipeline.feed.publish import Publisher
from replicator.pipeline.replay.replayer import Replayer
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.sealed import Seal
from replicator.storage.journal.store import Journal
from replicator.transport.server import Listen, application, serve
from tests.contracts.replica_kinds import STRAND, Kind
from tests.servers import free_port
from tests.verify.repair.world import LOG, NOTES, PAIRS

SECOND = 1_000_000


class Chain:
    """One region: its journal, its index of the past, and a replica of it."""

    def __init__(self, directory: Path, kind: Kind, epoch: int = 1) -> None:
        self.directory = directory
        self.kind = kind
        self.epoch = epoch
        directory.mkdir(exist_ok=True)
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.directory / "journal.sqlite3")
        self.journal.open()
        self.history = HistoryIndex(self.directory / "history.sqlite3", self.journal)
        self.history.open()

    def close(self) -> None:
        self.history.close()
        self.journal.close()

    @property
    def head(self) -> Position:
        return self.journal.head(STRAND)

    def write(self, *statements: bytes, parts: int = 0) -> int:
        """One block of these, cut into ``parts``; its sequence."""
        sequence = self.head.sequence + 1
        flags = HAS_DEFINITIONS if any(statement[1] == 6 for statement in statements) else 0
        items: list[BlockPart | Draft] = []
        body: bytes | None = b"".join(statements)
        if parts:
            size = -(-len(statements) // parts)
            cut = [statements[at : at + size] for at in range(0, len(statements), size)]
            items, body = [BlockPart(len(piece), b"".join(piece)) for piece in cut], None
        items.append(Draft(f"{self.epoch}x{sequence}", "", sequence * SECOND, flags, len(statements), body))
        self.journal.append(STRAND, items, self.epoch)
        return sequence

    def define(self) -> None:
        self.write(*(pack_define(number, table) for number, table in enumerate((NOTES, PAIRS, LOG), 1)))

    def take(self, other: Chain) -> None:
        """Have what the other chain has beyond this one, as by following it."""
        for block in other.journal.blocks(STRAND, self.head.sequence, 1 << 30):
            sequence = block.header.sequence
            if block.body is None:
                parts = enumerate(other.journal.parts(STRAND, sequence))
                self.journal.stage(STRAND, [(sequence, number, part) for number, part in parts])
            self.journal.accept(STRAND, [block])

    def replay(self, until: int | None = None) -> None:
        """Bring the replica to the journal's end."""
        until = self.head.sequence if until is None else until
        replica = self.kind.replica()
        try:
            replayer = Replayer(self.journal, replica, STRAND, 1 << 20, 7)
            replayer.open()
            while replayer.applied.position.sequence < until:
                replayer.step(until)
        finally:
            replica.close()

    def rewind(self, probe: Callable[[str], None] = lambda step: None) -> Rewind:
        return Rewind(
            DataDir(self.directory),
            self.journal,
            self.history,
            self.kind.replica(),
            STRAND,
            probe=probe,
        )


def digests(kind: Kind) -> dict[str, Digest]:
    """Every table's digest."""
    reader = kind.reader()
    try:
        found = {}
        for table in reader.tables():
            digest = Digest(0, 0)
            for lines in reader.lines(table.label):
                for _, line in lines:
                    digest += Digest(1, row_hash(table.label, line))
            found[table.label] = digest
        return found
    finally:
        reader.close()


@contextlib.asynccontextmanager
async def feed_of(chain: Chain) -> AsyncIterator[FeedClient]:
    """The chain is served; a client of it."""
    async with trio.open_nursery() as nursery:
        port = free_port()
        publisher = Publisher(chain.journal, {STRAND: JournalHead(chain.head)}, heartbeat_seconds=0.05)
        await nursery.start(serve, application(publisher.routes(), None), Listen("127.0.0.1", port), trio.sleep_forever)
        async with FeedClient(Upstream(f"http://127.0.0.1:{port}", "old", idle_seconds=5.0)) as client:
            yield client
        nursery.cancel_scope.cancel()


async def sealed(old: Chain, new: Chain) -> tuple[Fork, Seal]:
    """Find the fork and seal what only the old one has."""
    async with feed_of(new) as client:
        fork = await find_fork(client, old.journal, STRAND)
        sealing = OrphanSealer(DataDir(old.directory), old.journal, old.history, "old")
        return fork, await sealing.seal(fork, client)
