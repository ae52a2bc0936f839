"""Checkpoints on a real journal and a real replica, whose replay is made to do what it must not: the block is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio

from replicator.format.block import HAS_DEFINITIONS, Draft
from replicator.format.definition import Column, Definition
from replicator.format.position import genesis
from replicator.format.row import UNCHANGED, pack_row
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import AppliedMark, Reader, Replica, Step, TableChange
from replicator.pipeline.replicas.postgres import PostgresReader, PostgresReplica
from replicator.pipeline.replicas.sqlite import SqliteReader, SqliteReplica
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.pruning import remove_pages
from replicator.storage.journal.reading import JournalReader
from replicator.storage.journal.store import Journal
from replicator.verify.checkpoints import REST_LIMIT_SECONDS, Cadence, Checkpoints, rest_seconds
from replicator.verify.evidence import JournalWitness
from replicator.verify.findings import DivergenceFindings, DivergentKey

STRAND = "main"
LIMIT = 200  # statements in a window
WALLET = Definition("public", "wallet", (Column("id", "integer"), Column("v", "text")), ("id",))
LOG = Definition("public", "log", (Column("what", "text"),), ())


class World:
    """A journal, a replica that replays it block by block, and checkpoints over both."""

    def __init__(self, path: Path, replica: Replica, open_reader: Callable[[], Reader]) -> None:
        self.journal = Journal(path / "journal.db")
        self.journal.open()
        self.read_journal = JournalReader(self.journal.path)  # from the file: nothing is kept in memory
        self.history = HistoryIndex(path / "history.db", self.journal)
        self.history.open()
        self.replica = replica
        self.faults = Faults(replica)
        self.open_reader = open_reader
        self.replayer = Replayer(self.journal, replica, STRAND, 1 << 20, 1)
        self.findings = DivergenceFindings(0)
        self.applied = JournalHead(genesis(STRAND))
        self.checked = 0
        self.again = trio.Event()
        self.checkpoints = Checkpoints(
            "tokyo",
            self.read_journal,
            STRAND,
            open_reader,
            self.applied,
            JournalWitness(self.journal, self.history, STRAND),
            Cadence(0.01, 10_000, 1.0),
            self.findings,
            self.heard,
            LIMIT,
        )

    async def heard(self, began: float) -> None:
        self.checked += 1
        self.again.set()
        self.again = trio.Event()

    def write(self, *statements: bytes, flags: int = 0) -> int:
        sequence = self.journal.head(STRAND).sequence + 1
        draft = Draft(f"tx{sequence}", f"0/{sequence:X}", sequence * 10, flags, len(statements), b"".join(statements))
        self.journal.append(STRAND, [draft], 1)
        return sequence

    def replay(self) -> AppliedMark:
        """Everything that the journal has."""
        applied = self.replayer.open()
        while (moved := self.replayer.step()) != applied:
            applied = moved
        while self.history.indexed(STRAND) < applied.position.sequence:
            self.history.step(STRAND, applied.position.sequence)
        self.applied.moved(applied.position, applied.committed_at)
        return applied

    def close(self) -> None:
        self.checkpoints.close()
        self.read_journal.close()
        self.replica.close()
        self.history.close()
        self.journal.close()

    def wrong(self) -> list[DivergentKey]:
        return sorted(self.findings.wrong.values(), key=lambda one: one.key)


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "sqlite":
        path = tmp_path / "replica.db"
        made = World(tmp_path, SqliteReplica(path), lambda: SqliteReader(path))
    else:
        dsn: str = request.getfixturevalue("new_database")()
        made = World(tmp_path, PostgresReplica(dsn), lambda: PostgresReader(dsn))
    made.write(pack_define(1, WALLET), pack_define(2, LOG), flags=HAS_DEFINITIONS)
    yield made
    made.close()


class Faults:
    """A replica's steps go through ``spoil``: (number of the transaction, its steps) to the steps that are done."""

    def __init__(self, replica: Replica) -> None:
        self._number = 0
        self._apply = replica.apply
        self.spoil: Callable[[int, Sequence[Step]], Sequence[Step]] = lambda number, steps: steps
        replica.apply = self.apply  # type: ignore[method-assign]

    def apply(self, strand: str, steps: Sequence[Step]) -> None:
        self._number += 1
        self._apply(strand, self.spoil(self._number, steps))


def wallet(key: int, value: str) -> bytes:
    return pack_row([str(key).encode(), value.encode()])


def key(number: int) -> bytes:
    return pack_row([str(number).encode()])


async def test_a_replica_that_is_right_is_proven_up_to_its_position(world: World) -> None:
    for number in range(2, 30):
        world.write(pack_insert(1, wallet(number, "a")), pack_insert(2, pack_row([b"x"])))
    world.write(pack_delete(1, key(5)), pack_update(1, wallet(6, "b"), None), pack_update(1, wallet(100, "c"), key(7)))
    world.write(pack_patch(1, pack_row([b"8", UNCHANGED]), None))
    last = world.write(pack_truncate(1), pack_insert(1, wallet(1, "z")), pack_truncate(2))
    assert world.replay().position.sequence == last
    await world.checkpoints.check()
    assert (world.findings.verified, world.findings.wrong) == (last, {})
    again = world.write(pack_update(1, wallet(1, "y"), None))
    world.replay()
    await world.checkpoints.check()
    assert world.findings.verified == again


@pytest.mark.parametrize("fault", ["skipped", "twice", "swapped"])
async def test_a_fault_of_replay_is_named_with_its_first_block(world: World, fault: str) -> None:
    world.write(pack_insert(1, wallet(1, "a")), pack_insert(1, wallet(2, "a")))
    first = world.write(pack_update(1, wallet(1, "b"), None))
    second = world.write(pack_update(1, wallet(1, "c"), None), pack_update(1, wallet(2, "c"), None))
    done: dict[int, Sequence[Step]] = {}

    def spoil(number: int, steps: Sequence[Step]) -> Sequence[Step]:
        done[number] = steps
        if fault == "skipped":  # the last update of key 1 is left out
            return [only_key_two(step) for step in steps] if number == second else steps
        if fault == "twice":  # the block before is done once more, behind the last one
            return [*steps, *done[first]] if number == second else steps
        return {first: [], second: [*steps, *done.get(first, [])]}.get(number, steps)

    world.faults.spoil = spoil
    world.replay()
    await world.checkpoints.check()
    (wrong,) = world.wrong()
    assert (wrong.table, wrong.key) == ("wallet", "id=1")
    assert wrong.diagnosis is not None
    assert wrong.diagnosis.first is not None
    assert (wrong.diagnosis.first.sequence, wrong.diagnosis.odd) == (second, ("tokyo",))
    assert world.findings.verified == 0
    world.write(pack_update(1, wallet(1, "d"), None))
    world.replay()
    await world.checkpoints.check()
    assert world.findings.is_clean


def only_key_two(step: Step) -> Step:
    assert isinstance(step, TableChange)
    return step._replace(updates=[row for row in step.updates if row == wallet(2, "c")])


async def test_a_lost_insert_a_lost_delete_and_a_row_without_a_key(world: World) -> None:
    world.write(pack_insert(1, wallet(1, "a")))
    bad = world.write(pack_insert(1, wallet(2, "a")), pack_delete(1, key(1)), pack_insert(2, pack_row([b"entry"])))
    world.faults.spoil = lambda number, steps: [] if number == bad else steps
    world.replay()
    await world.checkpoints.check()
    causes = {one.key: one.diagnosis.cause for one in world.wrong() if one.diagnosis}
    assert f"its delete of block {bad} is missing" in causes["id=1"]
    assert "the row is missing" in causes["id=2"]
    assert f"the row that block {bad} left is missing" in causes[f"{bad} 2"]


async def test_rows_that_a_truncate_left_are_found(world: World) -> None:
    world.write(pack_insert(1, wallet(1, "a")), pack_insert(2, pack_row([b"x"])))
    bad = world.write(pack_truncate(1), pack_truncate(2))
    world.faults.spoil = lambda number, steps: [] if number == bad else steps
    world.replay()
    await world.checkpoints.check()
    assert [one.table for one in world.wrong()] == ["log", "wallet"]


async def test_a_window_that_is_too_large_is_left_to_the_scrub(world: World) -> None:
    world.write(*(pack_insert(1, wallet(number, "a")) for number in range(LIMIT)))
    last = world.replay().position.sequence
    await world.checkpoints.check()
    assert (world.findings.verified, world.findings.wants_scrub) == (0, True)
    world.findings.scrub(last, [], {})
    assert world.findings.verified == last


async def test_blocks_that_are_gone_before_they_were_compared_are_left_to_the_scrub(world: World) -> None:
    for number in range(5):
        world.write(pack_insert(1, wallet(number, "a")))
    last = world.replay().position.sequence
    assert remove_pages(world.journal, STRAND, 3).sequence == 3
    await world.checkpoints.check()
    assert (world.findings.verified, world.findings.wants_scrub) == (0, True)
    world.findings.scrub(last, [], {})
    following = world.write(pack_insert(1, wallet(9, "a")))
    world.replay()
    await world.checkpoints.check()
    assert world.findings.verified == following


async def test_what_was_seen_before_a_replica_went_back_proves_nothing(world: World) -> None:
    for number in range(5):
        world.write(pack_insert(1, wallet(number, "a")))
    last = world.replay().position.sequence
    await world.checkpoints.check()
    looked = world.checkpoints._look()
    world.findings.set_back(2)
    world.checkpoints._look = lambda: looked  # type: ignore[method-assign]
    await world.checkpoints.check()
    assert (looked.until, world.findings.verified) == (last, 2)


async def test_checkpoints_follow_the_replica(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.checkpoints.run)
        with trio.fail_after(20):
            for number in range(1, 6):
                world.write(pack_insert(1, wallet(number, "a")))
                applied = world.replay()
                while world.findings.verified < applied.position.sequence:
                    await world.again.wait()
        nursery.cancel_scope.cancel()
    assert world.checked >= 5


def test_a_checkpoint_takes_its_share_of_the_time_and_no_more() -> None:
    assert rest_seconds(3.0, 0.15) == pytest.approx(17.0)
    assert rest_seconds(3.0, 1.0) == 0
    assert rest_seconds(100.0, 0.15) == REST_LIMIT_SECONDS
