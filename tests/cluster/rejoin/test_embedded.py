"""A former primary with an embedded ledger: its state, its requests and the versions of deleted keys are as at the
fork, and it is written to again as if the orphans had never been."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import Halted
from replicator.ledger.planning import TransactionAnswer
from replicator.storage.journal.pruning import remove_pages
from tests.cluster.rejoin.chains import digests, sealed
from tests.cluster.rejoin.embedded import Ledger, parted, put, topup
from tests.contracts.replica_kinds import STRAND
from tests.ledger.region import change, insert, transaction


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[tuple[Ledger, Ledger, Ledger]]:
    made = parted(tmp_path)
    yield made
    for region in made:
        region.close()


def requests(region: Ledger) -> list[object]:
    with sqlite3.connect(region.directory / "requests.sqlite3") as db:
        found = db.execute("SELECT id, digest, sequence FROM request ORDER BY id").fetchall()
        found += db.execute("SELECT * FROM indexed").fetchall()
    db.close()
    return found


async def back(old: Ledger, new: Ledger) -> None:
    fork, seal = await sealed(old, new)
    old.rewind().run(seal, fork)


async def test_the_ledger_stands_at_the_fork(regions: tuple[Ledger, Ledger, Ledger]) -> None:
    old, new, reference = regions
    await back(old, new)
    assert old.head == reference.head
    assert digests(old.kind) == digests(reference.kind)
    assert requests(old) == requests(reference)


async def test_it_is_written_to_as_if_the_orphans_had_never_been(regions: tuple[Ledger, Ledger, Ledger]) -> None:
    """Without following anybody: what a request makes of the ledger is the same as where there were no orphans."""
    old, new, reference = regions
    await back(old, new)
    bodies = [
        topup("a", 7, id="orphan-a"),  # a request that was an orphan is a new one
        topup("a", 5, id="before"),  # one from before is a repetition
        transaction(insert(wallet_id="h", user_id="u-h", balance=9)),  # deleted before the fork, and by an orphan
        transaction(insert(wallet_id="new", user_id="u", balance=1), change("delete", "b", expect={"version": 1})),
        transaction(insert(wallet_id="g", user_id="u-g", balance=9)),
    ]
    outcomes = []
    for region in (old, reference):
        region.clock.now = old.clock.now
        answers = region.submit(*bodies)
        assert all(isinstance(answer, TransactionAnswer) for answer in answers)
        outcomes.append(
            [(answer.versions, answer.repeated) for answer in answers if isinstance(answer, TransactionAnswer)]
        )
    assert outcomes[0] == outcomes[1]
    assert [repeated for _, repeated in outcomes[0]] == [False, True, False, False, False]
    assert digests(old.kind) == digests(reference.kind)


async def test_it_follows_and_is_written_to_again(regions: tuple[Ledger, Ledger, Ledger]) -> None:
    old, new, _ = regions
    await back(old, new)
    old.take(new)
    old.replay()
    assert (old.head, digests(old.kind)) == (new.head, digests(new.kind))
    new.take(old)
    for region in (old, new):
        region.epoch = 3
        region.clock.now = new.clock.now + 1_000_000
        region.submit(transaction(put("z", n=1)), topup("f", 3, id="retried"), topup("c", 1, id="orphan-a"))
    assert digests(old.kind) == digests(new.kind)
    assert old.document("f") == ({"wallet_id": "f", "user_id": "u-f", "balance": 103}, 2), "carried out once"


async def test_a_region_that_goes_back_twice(regions: tuple[Ledger, Ledger, Ledger]) -> None:
    old, new, _ = regions
    await back(old, new)
    old.take(new)
    old.epoch = 3
    old.submit(topup("a", 100), transaction(put("y", n=1)))
    new.epoch = 4
    new.submit(topup("b", 1))
    await back(old, new)
    old.take(new)
    old.replay()
    assert (old.head, digests(old.kind)) == (new.head, digests(new.kind))
    assert len(list((old.directory / "orphans").iterdir())) == 2


async def test_a_replica_that_never_came_to_the_orphans_is_left_where_it_is(
    regions: tuple[Ledger, Ledger, Ledger],
) -> None:
    old, new, _ = regions
    (old.directory / "state.sqlite3").unlink()
    old.replay(4)
    before = digests(old.kind)
    await back(old, new)
    assert digests(old.kind) == before
    old.take(new)
    old.replay()
    assert digests(old.kind) == digests(new.kind)


async def test_what_the_journal_does_not_know_any_more_is_not_guessed(regions: tuple[Ledger, Ledger, Ledger]) -> None:
    """The rows that orphans changed are older than the journal: nothing is undone, and nothing is on its way."""
    old, new, reference = regions
    fork_sequence = reference.head.sequence
    while remove_pages(old.journal, STRAND, fork_sequence).sequence < fork_sequence:
        pass
    fork, seal = await sealed(old, new)
    before, stood = digests(old.kind), old.head
    with pytest.raises(Halted) as halted:
        old.rewind().run(seal, fork)
    assert (halted.value.reason, "bootstrap" in halted.value.cure) == ("before_unknown", True)
    assert (old.rewind().pending(), old.head, digests(old.kind)) == (None, stood, before)
