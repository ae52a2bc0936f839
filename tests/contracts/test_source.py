"""What every source owes, tested on each kind with the real journal behind it.

A copy first, then every transaction in commit order, exactly once, however often and wherever the source is stopped;
definitions before the rows that need them; nothing forgotten by the ledger that is not durable here.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from replicator.errors import Unavailable
from replicator.format.block import Block
from replicator.format.row import unpack_row
from replicator.format.statement import DEFINE, INSERT, unpack_statements
from replicator.pipeline.capture import Capture
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal
from replicator.storage.journal.walk import walk
from tests.contracts.source_kinds import KINDS, SourceKind

STRAND = "main"
SEED = 20260131
PATIENCE_SECONDS = 60


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> Iterator[SourceKind]:
    kind = KINDS[request.param](new_database)
    yield kind
    kind.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db")
    journal.open()
    yield journal
    journal.close()


@contextlib.asynccontextmanager
async def capturing(kind: SourceKind, journal: Journal) -> AsyncIterator[JournalHead]:
    """A sidecar's source stage, within the block; stopping is as abrupt as cancellation is."""
    tail = JournalHead(journal.head(STRAND))
    capture = Capture(kind.source(), journal, tail, 1, lambda blocks: None)

    async def run() -> None:
        while True:
            try:
                await capture.run_once()
            except* Unavailable:  # the ledger has not noticed yet that the reader before has gone
                await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield tail
        nursery.cancel_scope.cancel()


def bodies(journal: Journal, block: Block) -> Iterator[bytes]:
    if block.body is not None:
        yield block.body
    else:
        yield from (part.data for part in journal.parts(STRAND, block.header.sequence))


def ids(journal: Journal) -> list[int]:
    """The ids that were inserted, in the order of the chain; every row's definition must have come before it."""
    found, defined = [], set()
    for block in journal.blocks(STRAND, 0, 1 << 40):
        for body in bodies(journal, block):
            for statement in unpack_statements(body):
                if statement[0] == DEFINE:
                    defined.add(statement[1])
                elif statement[0] == INSERT:
                    assert statement[1] in defined
                    cell = unpack_row(statement[2])[0]
                    definition = journal.definitions(STRAND)[statement[1]]
                    is_text = definition.columns[0].format == "text"
                    assert isinstance(cell, bytes)
                    found.append(int(cell) if is_text else int.from_bytes(cell, "big"))
    return found


async def reach(journal: Journal, tail: JournalHead, rows: int) -> None:
    """Wait until so many rows are in the journal."""
    await until(lambda: len(ids(journal)) >= rows, tail)


async def until(condition: Callable[[], bool], tail: JournalHead) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await tail.beyond(tail.position.sequence)


async def test_a_copy_comes_first_then_each_transaction(kind: SourceKind, journal: Journal) -> None:
    kind.write(1, 50)
    async with capturing(kind, journal) as tail:
        await reach(journal, tail, 50)
        copied = journal.head(STRAND).sequence
        kind.write(51, 53)
        kind.write(54, 54)
        await reach(journal, tail, 54)
    assert ids(journal)[50:] == [51, 52, 53, 54]
    assert sorted(ids(journal)) == list(range(1, 55))
    assert [b.header.statements for b in journal.blocks(STRAND, copied, 1 << 30) if b.header.statements] == [3, 1]


async def test_stopped_anywhere_it_goes_on_exactly_once(kind: SourceKind, journal: Journal) -> None:
    draws = random.Random(SEED)
    written = 0
    for _ in range(12):
        async with capturing(kind, journal) as tail:
            for _ in range(draws.randrange(1, 6)):
                rows = draws.choice([1, 3, 400])
                kind.write(written + 1, written + rows)
                written += rows
            if draws.random() < 0.5:  # else it is stopped wherever it is now
                await reach(journal, tail, draws.randrange(1, written + 1))
    async with capturing(kind, journal) as tail:
        await reach(journal, tail, written)
    found = ids(journal)
    assert sorted(found) == list(range(1, written + 1))
    assert walk(journal, STRAND).broken is None


async def test_a_large_transaction_is_one_block(kind: SourceKind, journal: Journal) -> None:
    async with capturing(kind, journal) as tail:
        await until(lambda: journal.head(STRAND).sequence > 0, tail)
        before = journal.head(STRAND).sequence
        kind.write(1, 60_000)
        await until(lambda: journal.head(STRAND).sequence > before, tail)
    block = journal.block(STRAND, before + 1)
    assert block is not None
    assert block.body is None
    assert block.header.statements == 60_000
    assert ids(journal) == list(range(1, 60_001))


async def test_the_ledger_keeps_what_is_not_durable_here(kind: SourceKind, journal: Journal) -> None:
    for first in range(1, 100, 10):
        async with capturing(kind, journal) as tail:
            kind.write(first, first + 9)
            await reach(journal, tail, first + 9)
    last = journal.block(STRAND, journal.head(STRAND).sequence)
    assert last is not None
    assert kind.is_kept(last.header.origin)
