"""What a replica region's tables are after going back, where more is in play than rows: the quarantine, a resync that
is under way, a journal that begins later, a database that goes away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.cluster.rejoin.rewind import Rewind
from replicator.errors import Halted, Unavailable
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_truncate, pack_update
from replicator.pipeline.replay.quarantine import QuarantinePolicy
from replicator.pipeline.replay.replayer import Replayer
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.pruning import remove_pages
from replicator.verify.repair.resync_job import ResyncJob
from replicator.verify.repair.worklist import Worklist
from tests.cluster.rejoin.chains import Chain, digests, sealed
from tests.cluster.rejoin.rewind_child import Shim
from tests.contracts.replica_kinds import STRAND, Kind, PostgresKind, SqliteKind, contents, row
from tests.verify.repair.histories import line
from tests.verify.repair.world import NOTES, note


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "sqlite":
        return SqliteKind(tmp_path / "old.db")
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return PostgresKind(new_database())


@pytest.fixture
def old(tmp_path: Path, kind: Kind) -> Iterator[Chain]:
    chain = Chain(tmp_path / "old", kind)
    chain.define()
    chain.write(*(pack_insert(1, note(number)) for number in range(1, 41)))
    yield chain
    chain.close()


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Chain]:
    chain = Chain(tmp_path / "new", SqliteKind(tmp_path / "new.db"), epoch=2)
    yield chain
    chain.close()


def owners(kind: Kind) -> dict[str | None, str | None]:
    return {cells[0]: cells[1] for cells in contents(kind, "notes")}


# -- the quarantine


def replay_with_quarantine(chain: Chain) -> None:
    replica = chain.kind.replica()
    replayer = Replayer(chain.journal, replica, STRAND, 1 << 20, 7, QuarantinePolicy(True, 100))
    replayer.open()
    while replayer.applied.position.sequence < chain.head.sequence:
        replayer.step()
    replica.close()


def refuse_bad_owners(kind: Kind) -> None:
    if isinstance(kind, PostgresKind):
        kind.execute("ALTER TABLE notes ADD CHECK (owner <> 'bad')")
    else:
        for event in ("INSERT", "UPDATE"):
            kind.execute(
                f"CREATE TRIGGER refuse_{event} BEFORE {event} ON notes WHEN NEW.owner = 'bad'"
                " BEGIN SELECT RAISE(ABORT, 'no bad owner'); END"
            )


async def test_what_is_set_aside_since_before_the_fork_stays_so(old: Chain, new: Chain) -> None:
    old.replay()
    refuse_bad_owners(old.kind)
    old.write(pack_update(1, note(1, "bad")))
    new.take(old)
    set_aside = old.head.sequence
    old.write(pack_update(1, note(1, "held")), pack_update(1, note(2, "orphan")))
    old.write(pack_update(1, note(2, "bad")), pack_update(1, note(3, "orphan")))
    replay_with_quarantine(old)
    assert owners(old.kind)["2"] == "orphan"
    fork, seal = await sealed(old, new)
    old.rewind().run(seal, fork)
    assert [owners(old.kind)[key] for key in "123"] == ["ann", "ann", "ann"]
    replica = old.kind.replica()
    replica.open()
    assert [statement.place for statement in replica.quarantine().open(STRAND)] == [(set_aside, 0)]
    replica.close()
    new.write(pack_update(1, note(1, "held")), pack_update(1, note(2, "new")))
    old.take(new)
    replay_with_quarantine(old)
    assert [owners(old.kind)[key] for key in "12"] == ["ann", "new"]


# -- a resync


async def test_a_resync_that_knows_the_orphans_ends(old: Chain, new: Chain) -> None:
    new.take(old)
    old.write(pack_update(1, note(1, "orphan")))
    old.replay()
    last = old.head.sequence
    work = Worklist(old.directory / "resync.sqlite3")
    work.open()
    job = ResyncJob(0, None, None, None, "ann", False, 1, last, last, 0, state="rewriting")
    work.begin_anew(dataclasses.asdict(job))
    work.gather({("notes", row("1")): (last, 0)}, {}, None, dataclasses.asdict(job))
    work.close()
    fork, seal = await sealed(old, new)
    old.rewind().run(seal, fork)
    left = ResyncJob.stored(work.open())
    assert left is not None
    assert (left.state, work.pending(10)) == ("cancelled", [])
    work.close()


# -- a journal that begins later


def prune(chain: Chain) -> None:
    until = chain.head.sequence
    chain.write(pack_insert(1, note(41)))  # the last page stays
    while remove_pages(chain.journal, STRAND, until).sequence < until:
        pass


async def test_what_the_orphans_tell_by_themselves_needs_no_older_block(old: Chain, new: Chain) -> None:
    old.replay()
    prune(old)
    copy_blocks_to(new, old)
    before = contents(old.kind, "notes")
    old.replay()
    at_fork = contents(old.kind, "notes")
    assert before != at_fork
    old.write(pack_insert(1, note(50)), pack_insert(3, line("orphan", 1)), pack_update(1, note(41, "orphan")))
    old.write(pack_update(1, note(50, "again")), pack_delete(1, row("41")))
    old.replay()
    fork, seal = await sealed(old, new)
    old.rewind().run(seal, fork)
    assert contents(old.kind, "notes") == at_fork
    assert contents(old.kind, "log") == []


def copy_blocks_to(new: Chain, old: Chain) -> None:
    """The other region begins where this one does by now."""
    base = old.journal.base(STRAND)
    new.journal.begin_at(base, dict(old.journal.definitions_in_order(STRAND, base.sequence)))
    new.take(old)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (pack_update(1, note(5, "orphan")), "before_unknown"),
        (pack_delete(1, row("5")), "before_unknown"),
        (pack_truncate(1), "truncate_not_undoable"),
        (pack_define(9, dataclasses.replace(NOTES, columns=NOTES.columns[:3])), "define_not_undoable"),
    ],
)
async def test_what_cannot_be_told_undoes_nothing(old: Chain, new: Chain, statement: bytes, reason: str) -> None:
    old.replay()
    prune(old)
    copy_blocks_to(new, old)
    old.write(pack_insert(1, note(50)), statement)
    old.replay()
    before, head = digests(old.kind), old.head
    fork, seal = await sealed(old, new)
    with pytest.raises(Halted) as halted:
        old.rewind().run(seal, fork)
    assert (halted.value.reason, "bootstrap" in halted.value.cure) == (reason, True)
    assert (digests(old.kind), old.head, DataDir(old.directory).rewind.exists()) == (before, head, False)
    old.replay()  # the region is as it was, with its orphans


async def test_a_table_that_was_truncated_since_is_known_again(old: Chain, new: Chain) -> None:
    old.replay()
    prune(old)
    old.write(pack_truncate(1), *(pack_insert(1, note(number, "second")) for number in range(1, 6)))
    copy_blocks_to(new, old)
    old.replay()
    at_fork = digests(old.kind)
    old.write(pack_truncate(1), pack_insert(1, note(3, "orphan")), pack_insert(1, note(90)))
    old.replay()
    fork, seal = await sealed(old, new)
    old.rewind().run(seal, fork)
    assert digests(old.kind) == at_fork


# -- a database that goes away


def dying_at(chain: Chain, number: int) -> Rewind:
    """The replica's database goes away at its n-th effect."""
    replica, left = chain.kind.replica(), [number]

    def probe(step: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            chain.kind.crash(replica)

    shim: Any = Shim(replica, probe)
    return Rewind(DataDir(chain.directory), chain.journal, chain.history, shim, STRAND)


async def test_a_database_that_goes_away_at_any_effect(old: Chain, new: Chain) -> None:
    new.take(old)
    old.replay()
    at_fork = digests(old.kind)
    old.write(*(pack_update(1, note(number, "orphan")) for number in range(1, 31)), pack_define(9, _others()))
    old.write(pack_insert(9, note(1)), pack_delete(1, row("40")))
    old.replay()
    fork, seal = await sealed(old, new)
    number = 0
    while True:
        number += 1
        rewinding = dying_at(old, number)
        try:
            rewinding.run(seal, fork)
            break
        except (Unavailable, AssertionError):  # SQLite's replica was closed under it
            assert rewinding.pending() == fork
            assert old.head in (fork.head, fork.position)
    assert number > 8
    assert digests(old.kind) == at_fork
    new.write(pack_update(1, note(1, "new")))
    old.take(new)
    old.replay()
    new.replay()
    assert digests(old.kind) == digests(new.kind)


def _others() -> Any:
    return dataclasses.replace(NOTES, table="others", user=None)
