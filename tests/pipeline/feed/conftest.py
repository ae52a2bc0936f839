"""A region that serves its feed over real HTTP, and one that follows it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from replicator.errors import ReplicatorError, Unavailable
from replicator.format.block import Block, BlockPart, Draft, Header
from replicator.format.statement import pack_message
from replicator.format.wire import Heartbeat
from replicator.pipeline.feed.client import Upstream
from replicator.pipeline.feed.follow import Follower
from replicator.pipeline.feed.publish import Publisher
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.regions import KnownRegions
from replicator.storage.journal.store import Journal
from replicator.supervise import Backoff
from replicator.transport.server import Listen, application, serve
from settle_buffer.config import SettleConfig
from tests.servers import free_port

STRAND = "main"


def drafts(first: int, last: int) -> list[BlockPart | Draft]:
    return [Draft(f"tx{n}", f"0/{n:X}", n * 10, 0, 1, pack_message("n", b"%d" % n)) for n in range(first, last + 1)]


class Primary:
    """A journal and its feed on a port of its own; ``publisher_type`` may be one that misbehaves."""

    def __init__(self, path: Path, publisher_type: type[Publisher] = Publisher) -> None:
        self.journal = Journal(path)
        self.journal.open()
        self.tail = JournalHead(self.journal.head(STRAND))
        self.port = free_port()
        self.regions = KnownRegions(self.journal, STRAND)
        known = {STRAND: self.regions}
        self.publisher = publisher_type(self.journal, {STRAND: self.tail}, heartbeat_seconds=0.05, regions=known)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self, items: list[BlockPart | Draft]) -> list[Block]:
        blocks = self.journal.append(STRAND, items, 1)
        self.tail.moved(blocks[-1].position, blocks[-1].header.committed_at)
        return blocks

    @contextlib.asynccontextmanager
    async def serving(self, token: str | None = None) -> AsyncIterator[None]:
        """The feed answers within the block; leaving it cuts every connection."""
        async with trio.open_nursery() as nursery:
            app = application(self.publisher.routes(), token)
            await nursery.start(serve, app, Listen("127.0.0.1", self.port), trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()


class Recorder:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.feed = self
        self.settle = self
        self.waits: list[Unavailable] = []
        self.halts: list[ReplicatorError] = []
        self.heartbeats = 0
        self.stagings = 0
        self.resumptions = 0
        self.halted = trio.Event()
        self.waited = trio.Event()

    def wait(self, cause: Unavailable) -> None:
        self.waits.append(cause)
        self.waited.set()

    def halt(self, cause: ReplicatorError) -> None:
        self.halts.append(cause)
        self.halted.set()

    def heard(self, heartbeat: Heartbeat, at: float) -> None:
        self.heartbeats += 1

    def staged(self) -> None:
        self.stagings += 1

    def received(self, last: Header) -> None:
        pass

    def settled(self, last: Header) -> None:
        pass

    def resumed(self) -> None:
        self.resumptions += 1


class Region:
    """A following region."""

    def __init__(self, directory: Path, primary: Primary, token: str | None = None, name: str = "eu") -> None:
        directory.mkdir(exist_ok=True)
        self.journal = Journal(directory / "journal.db")
        self.journal.open()
        self.tail = JournalHead(self.journal.head(STRAND))
        self.recorder = Recorder()
        config = SettleConfig(request_after_us=20_000, request_every_us=100_000)
        self.upstream = Upstream(primary.url, name, token=token, idle_seconds=2.0)
        self.follower = Follower(
            self.upstream,
            config,
            directory / "spool.db",
            self.journal,
            self.tail,
            self.recorder,
            lambda: Backoff(0.01, 0.05, random.Random(1)),
        )

    async def take(self, block: Block) -> None:
        """The block comes by another way than the streams that are open."""
        await self.follower._intake(self.upstream)._take([block])

    def bodies(self) -> list[bytes | None]:
        return [block.body for block in self.journal.blocks(STRAND, 0, 1 << 30)]
