"""The first block of an epoch is empty: everything that reads a chain takes it, alone, in a batch, and at the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from replicator.cluster.promotion import append_epoch
from replicator.errors import Halted
from replicator.format.block import HAS_DEFINITIONS, Draft
from replicator.format.statement import pack_define, pack_insert
from replicator.ledger.commit import Committer
from replicator.ledger.planning import TransactionAnswer
from replicator.pipeline.capture import Capture
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import Replica
from replicator.pipeline.replicas.postgres import PostgresReplica
from replicator.pipeline.replicas.sqlite import SqliteReplica
from replicator.pipeline.sources.base import Sink, SourceReport, SourceState
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal
from replicator.storage.journal.walk import walk
from tests.contracts.replica_kinds import row, table
from tests.ledger.region import insert, new_committer, new_journal, options, transaction
from tests.pipeline.feed.conftest import Primary
from tests.pipeline.feed.conftest import Region as Following
from tests.pipeline.feed.test_follow import reach

STRAND = "main"
WALLETS = table([("id", "integer"), ("owner", "text")], ["id"], user="owner")


def opened(path: Path) -> Journal:
    journal = Journal(path)
    journal.open()
    return journal


def write(journal: Journal, number: int, epoch: int) -> None:
    body = pack_insert(1, row(str(number), "ada"))
    journal.append(STRAND, [Draft(f"tx{number}", f"0/{number:X}", number, 0, 1, body)], epoch)


def chain(path: Path) -> Journal:
    """A table and a row, an epoch, rows of it, two epochs behind one another, a row, and an epoch at the end."""
    journal = opened(path)
    journal.append(STRAND, [Draft("define", "0/1", 1, HAS_DEFINITIONS, 1, pack_define(1, WALLETS))], 1)
    write(journal, 2, 1)
    append_epoch(journal, STRAND, 2, 3)
    write(journal, 4, 2)
    write(journal, 5, 2)
    append_epoch(journal, STRAND, 3, 6)
    append_epoch(journal, STRAND, 4, 7)
    write(journal, 8, 4)
    append_epoch(journal, STRAND, 5, 9)
    return journal


def test_an_epoch_begins_once(tmp_path: Path) -> None:
    journal = opened(tmp_path / "journal")
    first = append_epoch(journal, STRAND, 1, 10)
    assert (first.epoch, first.sequence) == (1, 1)
    assert append_epoch(journal, STRAND, 1, 20) == first
    second = append_epoch(journal, STRAND, 7, 30)
    assert (second.epoch, second.sequence) == (7, 2)
    with pytest.raises(Halted) as caught:
        append_epoch(journal, STRAND, 6, 40)
    assert caught.value.reason == "old_epoch"
    assert journal.head(STRAND) == second


def test_the_chain_is_whole(tmp_path: Path) -> None:
    journal = chain(tmp_path / "journal")
    journal.close()
    again = Journal(tmp_path / "journal")
    result = walk(again, STRAND)
    assert (result.broken, result.blocks) == (None, 9)
    assert [block.header.epoch for block in again.blocks(STRAND, 0, 1 << 30)] == [1, 1, 2, 2, 2, 3, 4, 4, 5]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("batch_blocks", [1, 2, 100])
def test_replicas_take_it(tmp_path: Path, new_database: Callable[[], str], kind: str, batch_blocks: int) -> None:
    journal = chain(tmp_path / "journal")
    replica: Replica = SqliteReplica(tmp_path / "db") if kind == "sqlite" else PostgresReplica(new_database())
    replayer = Replayer(journal, replica, STRAND, 1 << 20, batch_blocks)
    replayer.open()
    while replayer.applied.position != journal.head(STRAND):
        replayer.step()
    applied = replica.applied(STRAND)
    assert applied is not None
    assert (applied.position, applied.blocks) == (journal.head(STRAND), 9)
    assert len(replica.stored_keys(WALLETS, None, 100)) == 4
    replica.close()


def test_the_history_index_takes_it(tmp_path: Path) -> None:
    journal = chain(tmp_path / "journal")
    index = HistoryIndex(tmp_path / "history", journal)
    index.open()
    while index.indexed(STRAND) < 9:
        index.step(STRAND, 9)
    index.close()


async def test_the_feed_brings_it(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    primary.journal.close()
    primary.journal.path.unlink()
    primary.journal = chain(primary.journal.path)
    primary.tail.moved(primary.journal.head(STRAND), 9)
    primary.publisher = type(primary.publisher)(primary.journal, {STRAND: primary.tail}, 0.05, regions={})
    region = Following(tmp_path / "eu", primary)
    async with primary.serving():
        await reach(region, 9)
    assert region.journal.head(STRAND) == primary.journal.head(STRAND)


def test_the_embedded_ledger_goes_on_behind_it(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    (answer,) = committer.execute([transaction(insert(wallet_id="w", user_id="u", n=1))])
    assert isinstance(answer, TransactionAnswer)
    committer.close()
    journal = new_journal(tmp_path)
    epoch = append_epoch(journal, STRAND, 2, 1)
    later = Committer(journal, STRAND, 2, options(tmp_path))
    later.open()
    assert later.applied.position == epoch
    (answer,) = later.execute([transaction(insert(wallet_id="x", user_id="u", n=2))])
    assert isinstance(answer, TransactionAnswer)
    assert (journal.head(STRAND).epoch, journal.head(STRAND).sequence) == (2, epoch.sequence + 1)
    later.close()


class Once:
    """A source that remembers what it was told of the journal, and ends."""

    def __init__(self) -> None:
        self.report = SourceReport("postgres")
        self.state: SourceState | None = None

    async def run(self, state: SourceState, sink: Sink) -> None:
        self.state = state
        await trio.lowlevel.checkpoint()

    def origin_of(self, state: SourceState) -> str | None:
        return state.origin

    def acknowledge(self, origin: str) -> None: ...


def test_a_source_goes_on_from_the_last_block_that_came_from_one(tmp_path: Path) -> None:
    def state(journal: Journal) -> tuple[str | None, int]:
        source = Once()

        def ignore(blocks: object) -> None: ...

        trio.run(Capture(source, journal, JournalHead(journal.head(STRAND)), 5, ignore).run_once)
        assert source.state is not None
        return source.state.origin, source.state.sequence

    assert state(chain(tmp_path / "journal")) == ("0/8", 8)
    empty = opened(tmp_path / "empty")
    append_epoch(empty, STRAND, 1, 1)
    assert state(empty) == (None, 0), "then it begins with a copy"
