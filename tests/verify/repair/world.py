"""A replica behind a journal that a test writes: replay runs, and what rewrites keys of it.

Right is what a second database of the same kind holds that has only ever been replayed to.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from replicator.errors import Rejected, Unavailable
from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft
from replicator.format.definition import Column, Definition
from replicator.pipeline.replay.loop import ReplayHold, ReplayLoop
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import AppliedMark
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal
from replicator.supervise import Backoff
from replicator.verify.repair.expected_row import ExpectedRows
from replicator.verify.repair.key_repair import KeyRepair
from replicator.verify.repair.resync import Resync
from replicator.verify.repair.resync_job import ResyncRequest
from tests.contracts.replica_kinds import STRAND, Kind, contents, row

PATIENCE_SECONDS = 60
SECOND = 1_000_000

NOTES = Definition(
    "public",
    "notes",
    (
        Column("id", "bigint", "text", nullable=False, number=1),
        Column("owner", "text", number=2),
        Column("body", "text", number=3),
        Column("n", "numeric(12,2)", number=4),
    ),
    ("id",),
    user="owner",
)
PAIRS = Definition(
    "app",
    "pairs",
    (
        Column("v", "double precision", "binary", number=1),
        Column("b", "text", "binary", nullable=False, number=2),
        Column("a", "integer", "binary", nullable=False, number=3),
    ),
    ("a", "b"),
)
LOG = Definition("public", "log", (Column("line", "text", number=1), Column("n", "integer", "binary", number=2)), ())


class World:
    """One region's journal, replica and rewriting parts. ``databases`` are two of one kind."""

    def __init__(self, directory: Path, databases: tuple[Kind, Kind]) -> None:
        self.directory = directory
        self.kind, self.reference = databases
        self.journal = Journal(directory / "journal.sqlite3")
        self.journal.open()
        self.history = HistoryIndex(directory / "history.sqlite3", self.journal)
        self.history.open()
        self.tail = JournalHead(self.journal.head(STRAND))
        self.applied = JournalHead(self.journal.base(STRAND))
        self.begin_life()

    def begin_life(self) -> None:
        """The parts of a process; called again, they find what the last life left."""
        self.replica = self.kind.replica()
        replayer = Replayer(self.journal, self.replica, STRAND, 1 << 20, 100)
        self.replay = ReplayLoop(replayer, self.tail, ReplayHold(), self._moved)
        rightful = [ExpectedRows(self.journal, self.history, STRAND) for _ in range(2)]
        self.repairs = KeyRepair(self.journal, rightful[0], self.replay, STRAND, DataDir(self.directory))
        self.resync = Resync(
            self.directory / "resync.sqlite3",
            self.journal,
            rightful[1],
            self.replay,
            self.applied,
            STRAND,
            lambda: Backoff(0.01, 0.1, random.Random(1)),
        )

    def end_life(self) -> None:
        """What the system does for a process that was killed; then the next life begins."""
        self.replica.close()
        self.resync._work.close()
        self.begin_life()

    def _moved(self, applied: AppliedMark) -> None:
        self.applied.moved(applied.position, applied.committed_at)

    def close(self) -> None:
        self.replica.close()
        self.history.close()
        self.journal.close()

    def write(self, *statements: bytes, at: int | None = None, parts: int = 0) -> int:
        """One block of these, committed at its sequence in seconds if not ``at`` (µs), cut into ``parts``; its
        sequence."""
        sequence = self.journal.head(STRAND).sequence + 1
        moment = sequence * SECOND if at is None else at
        flags = HAS_DEFINITIONS if any(statement[1] == 6 for statement in statements) else 0
        items: list[BlockPart | Draft] = []
        body: bytes | None = b"".join(statements)
        if parts:
            size = -(-len(statements) // parts)
            cut = [statements[at : at + size] for at in range(0, len(statements), size)]
            items, body = [BlockPart(len(piece), b"".join(piece)) for piece in cut], None
        items.append(Draft(f"tx{sequence}", "", moment, flags, len(statements), body))
        self.journal.append(STRAND, items, 1)
        self.tail.moved(self.journal.head(STRAND), moment)
        return sequence

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Replay and resync run, and replay has come to the journal's end."""
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.replay.run_once)
                nursery.start_soon(self.resync.run)
                await self.reach()
                yield
                nursery.cancel_scope.cancel()

    async def reach(self) -> None:
        await self.applied.beyond(self.journal.head(STRAND).sequence - 1)

    async def resynced(self, since: int, **more: object) -> None:
        """Resync what was touched from the block ``since`` on, to its end."""
        fields = {"until": None, "tables": None, "users": None, "who": "test", "plan": False, **more}
        while True:
            with contextlib.suppress(Rejected, Unavailable):  # one is under way, or it is starting
                await self.resync.start(ResyncRequest(since * SECOND, **fields))  # type: ignore[arg-type]
                break
            await trio.sleep(0.01)
        await self.finished()

    async def finished(self) -> None:
        job = await self.resync.ended()
        assert job is not None
        assert job.state == "done", job

    def assert_right(self, *tables: str) -> None:
        """The replica holds what a database does that was only replayed to."""
        replica = self.reference.replica()
        replayer = Replayer(self.journal, replica, STRAND, 1 << 20, 100)
        head = self.journal.head(STRAND).sequence
        while replayer.open().position.sequence < head:
            replayer.step()
        replica.close()
        for table in tables:
            assert contents(self.kind, table) == contents(self.reference, table), table


def note(number: int, owner: str = "ann", body: str | None = "body", n: str = "1.00") -> bytes:
    return row(str(number), owner, body, n)
