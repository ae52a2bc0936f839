"""A region with an embedded ledger, served over real HTTP on loopback."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import trio
from starlette.routing import Route

from replicator.format.block import Block
from replicator.format.position import Position, genesis
from replicator.ledger.api import routes
from replicator.ledger.commit import Committer, LedgerOptions
from replicator.ledger.ledger import Ledger
from replicator.ledger.outcomes import Outcomes
from replicator.ledger.reads import Reads
from replicator.ledger.request import RequestLimits
from replicator.ledger.tables import TableDeclaration
from replicator.pipeline.replicas.base import AppliedMark, Reader
from replicator.pipeline.replicas.sqlite.reader import SqliteReader
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal
from replicator.transport.server import Listen, application, serve

WALLETS = TableDeclaration("wallets", ("wallet_id",), ("string",), "user_id")
POINTS = TableDeclaration("points", ("tenant", "number"), ("string", "integer"), "user_id")


class Clock:
    """A wall clock that stands until it is set, in microseconds."""

    def __init__(self, now: int = 1_770_000_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def transaction(*statements: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"statements": statements, **fields}).encode()


def insert(table: str = "wallets", **document: Any) -> dict[str, Any]:
    return {"table": table, "op": "insert", "document": document}


def change(op: str, key: Any, **fields: Any) -> dict[str, Any]:
    return {"table": "wallets", "op": op, "key": key, **fields}


def new_journal(directory: Path) -> Journal:
    journal = Journal(directory / "journal.sqlite3")
    journal.open()
    return journal


def options(
    directory: Path, clock: Callable[[], int] | None = None, limits: RequestLimits | None = None
) -> LedgerOptions:
    return LedgerOptions(
        directory / "state.sqlite3", directory / "requests.sqlite3", limits or RequestLimits(), clock=clock or Clock()
    )


def new_committer(directory: Path, limits: RequestLimits | None = None) -> Committer:
    committer = Committer(new_journal(directory), "main", 1, options(directory, limits=limits))
    committer.open()
    committer.declare(WALLETS)
    return committer


class Region:
    """The parts as the service joins them."""

    def __init__(self, directory: Path, clock: Clock, limits: RequestLimits | None = None) -> None:
        self.journal = new_journal(directory)
        self.state = directory / "state.sqlite3"
        self.tail = JournalHead(genesis("main"))
        self.index = HistoryIndex(directory / "history.sqlite3", self.journal)
        self.index.open()
        self.committed: list[Block] = []  # what was told of, by who asks for it
        self.ledger = Ledger(self.journal, "main", 1, options(directory, clock, limits), self._applied)
        self.reads = Reads("main", self._reader, self.journal, self.index, self._wait_applied, clock)
        self.outcomes = Outcomes("main", directory / "requests.sqlite3", self.journal, leads=True)

    def _applied(self, applied: AppliedMark) -> None:
        while self.index.indexed("main") < applied.position.sequence:
            self.index.step("main", applied.position.sequence)
        self.tail.moved(applied.position, applied.committed_at)

    def _reader(self) -> Reader:
        return SqliteReader(self.state)

    async def _wait_applied(self, position: Position, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.tail.beyond(position.sequence - 1)
            return True
        return False


@contextlib.asynccontextmanager
async def served(app_routes: list[Route]) -> AsyncIterator[httpx.AsyncClient]:
    """The routes on a port of their own, and a client."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(serve, application(app_routes, None), Listen("127.0.0.1", 0), stop.wait)
        async with httpx.AsyncClient(base_url=urls[0], timeout=20) as client:
            yield client
        stop.set()


@contextlib.asynccontextmanager
async def running(region: Region) -> AsyncIterator[Region]:
    """The region's ledger runs, with its tables."""
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: region.ledger.run((WALLETS, POINTS), task_status=task_status))
        yield region
        nursery.cancel_scope.cancel()
    region.reads.close()
    region.outcomes.close()
    region.index.close()
    region.journal.close()


def api(region: Region) -> list[Route]:
    return routes(region.ledger, region.reads, region.outcomes)


def replica_api(region: Region, directory: Path, primary: str | None = None) -> list[Route]:
    """As a region that does not lead, but has the same journal, would serve it; its files are in ``directory``."""
    outcomes = Outcomes("main", directory / "replica-requests.sqlite3", region.journal, leads=False)
    return routes(None, region.reads, outcomes, lambda: primary)
