"""Finding the fork over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.cluster.rejoin.fork import Fork, find_fork
from replicator.errors import Halted, Unavailable
from replicator.format.statement import pack_message
from replicator.pipeline.feed.client import FeedClient, Upstream
from replicator.storage.journal.pruning import remove_pages
from tests.cluster.rejoin.chains import Chain, feed_of
from tests.contracts.replica_kinds import STRAND, SqliteKind
from tests.servers import free_port


def write(chain: Chain, blocks: int) -> None:
    for number in range(blocks):
        chain.write(pack_message("n", b"%d" % number))


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Chain]:
    chain = Chain(tmp_path / "old", SqliteKind(tmp_path / "old.db"))
    write(chain, 10)
    yield chain
    chain.close()


@pytest.fixture
def new(tmp_path: Path, old: Chain) -> Iterator[Chain]:
    chain = Chain(tmp_path / "new", SqliteKind(tmp_path / "new.db"), epoch=2)
    chain.take(old)
    yield chain
    chain.close()


async def fork_of(old: Chain, new: Chain) -> Fork:
    found: Fork | Halted
    async with feed_of(new) as client:
        try:
            found = await find_fork(client, old.journal, STRAND)
        except Halted as error:
            found = error
    if isinstance(found, Halted):
        raise found
    return found


@pytest.mark.parametrize("more", [0, 1, 7])
async def test_a_region_that_is_behind_or_equal_has_no_orphans(old: Chain, new: Chain, more: int) -> None:
    write(new, more)
    fork = await fork_of(old, new)
    assert (fork.position, fork.orphans) == (old.head, 0)


@pytest.mark.parametrize(("mine", "theirs"), [(1, 0), (5, 0), (1, 1), (3, 8), (9, 2), (2, 100)])
async def test_the_fork_is_the_last_position_of_both(old: Chain, new: Chain, mine: int, theirs: int) -> None:
    shared = old.head
    write(old, mine)
    write(new, theirs)
    fork = await fork_of(old, new)
    assert (fork.position, fork.first, fork.last, fork.orphans) == (shared, 11, 10 + mine, mine)
    assert (fork.head, fork.theirs) == (old.head, new.head)


async def test_one_block_in_common(tmp_path: Path) -> None:
    old, new = (
        Chain(tmp_path / name, SqliteKind(tmp_path / f"{name}.db"), epoch) for name, epoch in (("a", 1), ("b", 2))
    )
    write(old, 1)
    new.take(old)
    write(old, 30)
    write(new, 50)
    assert (await fork_of(old, new)).position.sequence == 1
    old.close()
    new.close()


async def test_nothing_in_common(tmp_path: Path, old: Chain) -> None:
    other = Chain(tmp_path / "other", SqliteKind(tmp_path / "other.db"), epoch=2)
    with pytest.raises(Halted) as nothing:  # an empty region is not the one in charge of this ledger
        await fork_of(old, other)
    assert nothing.value.reason == "nothing_in_common"
    write(other, 3)
    with pytest.raises(Halted) as halted:
        await fork_of(old, other)
    assert (halted.value.reason, "bootstrap" in halted.value.cure) == ("nothing_in_common", True)
    empty = Chain(tmp_path / "empty", SqliteKind(tmp_path / "empty.db"))
    assert (await fork_of(empty, old)).orphans == 0
    for chain in (other, empty):
        chain.close()


@pytest.mark.parametrize("who", ["old", "new"])
async def test_pruned_beyond_the_fork(old: Chain, new: Chain, who: str) -> None:
    write(old, 20)
    write(new, 20)
    pruned = old if who == "old" else new
    while remove_pages(pruned.journal, STRAND, 20).sequence < 20:
        pass
    with pytest.raises(Halted) as halted:
        await fork_of(old, new)
    assert (halted.value.reason, "bootstrap" in halted.value.cure) == (
        "fork_not_here" if who == "old" else "fork_pruned",
        True,
    )


async def test_pruned_up_to_the_fork(old: Chain, new: Chain) -> None:
    write(old, 20)
    write(new, 20)
    for chain in (old, new):
        while remove_pages(chain.journal, STRAND, 10).sequence < 10:
            pass
    assert (await fork_of(old, new)).position.sequence == 10


async def test_this_region_is_behind_all_that_the_other_keeps(old: Chain, new: Chain) -> None:
    write(new, 30)
    while remove_pages(new.journal, STRAND, 20).sequence < 20:
        pass
    with pytest.raises(Halted) as halted:
        await fork_of(old, new)
    assert halted.value.reason == "fork_pruned"


async def test_nobody_answers(old: Chain) -> None:
    async with FeedClient(Upstream(f"http://127.0.0.1:{free_port()}", "old")) as client:
        with pytest.raises(Unavailable):
            await find_fork(client, old.journal, STRAND)
