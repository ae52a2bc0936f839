"""Resync on both kinds of replica: everything that was touched in the span ends as the journal has it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import trio

from replicator.errors import Corrupt, Rejected
from replicator.format.position import Position
from replicator.format.row import UNCHANGED
from replicator.format.statement import pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from replicator.pipeline.replicas.base import Replica
from replicator.verify.repair.images import Place
from replicator.verify.repair.resync_job import ResyncRequest
from replicator.verify.repair.statement_lookup import LocatedStatement
from replicator.verify.repair.worklist import PendingKey
from tests.contracts.replica_kinds import STRAND, contents, row
from tests.verify.repair.histories import before, evolve, line, pair, span
from tests.verify.repair.world import SECOND, World, note

TABLES = ("notes", "app.pairs", "log")


def damage(world: World) -> None:
    """Rows of the replica as an old copy, a mistaken hand or a bad disk leaves them; only what the span touched."""
    execute = world.kind.execute
    pairs = '"app.pairs"' if world.kind.name == "sqlite" else "app.pairs"
    execute("UPDATE notes SET owner = 'wrong' WHERE id IN (1, 2, 7, 50, 60, 61, 400)")
    execute("DELETE FROM notes WHERE id IN (6, 101, 699)")
    execute("INSERT INTO notes (id, owner) VALUES (3, 'ghost'), (4, 'ghost'), (5, 'ghost')")
    execute(f"UPDATE {pairs} SET v = 7")
    execute(f"INSERT INTO {pairs} (v, b, a) VALUES (1, 'x', 11), (1, 'x', 12), (1, 'y', 3)")
    execute("UPDATE log SET line = 'wrong' WHERE n = 333")
    execute("DELETE FROM log WHERE n IN (1, 44) AND _sequence > 5")


async def test_everything_touched_is_right_again(world: World) -> None:
    before(world)
    since = span(world)
    evolve(world)
    async with world.running():
        world.assert_right(*TABLES)
        damage(world)
        await world.resynced(since)
        world.assert_right(*TABLES)
        job = world.resync.job
        assert job is not None
        assert (job.blocks, job.unknown, job.compared) == (14, 0, job.keys)
        assert job.differing > 15


async def test_only_the_span_is_looked_at(world: World) -> None:
    before(world)
    since = span(world)
    async with world.running():
        world.kind.execute("UPDATE notes SET owner = 'old mistake' WHERE id = 30")
        world.kind.execute("UPDATE notes SET owner = 'new mistake' WHERE id = 1")
        await world.resynced(since)
        owners = {cells[0]: cells[1] for cells in contents(world.kind, "notes")}
        assert (owners["30"], owners["1"]) == ("old mistake", "bob")
        world.kind.execute("UPDATE notes SET owner = 'new mistake' WHERE id IN (1, 100)")
        await world.resynced(since, until=since * SECOND)
        owners = {cells[0]: cells[1] for cells in contents(world.kind, "notes")}
        assert (owners["100"], owners["1"]) == ("new mistake", "bob")


async def test_a_plan_changes_nothing_and_tells_what_happens(world: World) -> None:
    before(world)
    since = span(world)
    evolve(world)
    async with world.running():
        damage(world)
        stored = [contents(world.kind, table) for table in TABLES]
        position = world.applied.position
        await world.resynced(since, plan=True)
        plan = world.resync.job
        assert [contents(world.kind, table) for table in TABLES] == stored
        assert world.applied.position == position
        await world.resynced(since)
        done = world.resync.job
        assert plan is not None
        assert done is not None
        assert (plan.blocks, plan.bytes, plan.keys) == (done.blocks, done.bytes, done.keys)
        assert plan.conflicts() == done.differing > 0


async def test_tables_and_users(world: World) -> None:
    before(world)
    since = span(world)
    async with world.running():
        world.kind.execute("UPDATE notes SET n = 0 WHERE id IN (1, 50, 60)")
        world.kind.execute("UPDATE log SET line = 'wrong' WHERE n = 333")
        await world.resynced(since, tables=["log"])
        assert ["many", "333"] in contents(world.kind, "log")
        await world.resynced(since, users=["bob", "ann"])
        n = {cells[0]: cells[3] for cells in contents(world.kind, "notes")}
        assert (n["1"], n["50"], n["60"]) == ("1.00", "1.00", "0" if world.kind.name == "sqlite" else "0.00")
        with pytest.raises(Rejected, match="unknown_table"):
            await world.resync.start(ResyncRequest(0, None, ["nothing"], None, "test", plan=False))


async def test_a_busy_ledger(world: World) -> None:
    """Blocks come all the while: patches of rows that wait, a second truncate, keys that leave and come back."""
    before(world)
    since = span(world)
    async with world.running():
        damage(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.resynced, since)
            for number in range(120):
                world.write(
                    pack_update(1, note(1, f"owner {number}")),
                    pack_update(1, note(400 + number, "late")),
                    pack_insert(1, note(2000 + number)),
                    *([pack_delete(1, row("2000"))] if number == 50 else []),
                    pack_insert(2, pair(1000 + number, "x", number)),
                    pack_insert(3, line("busy", number)),
                )
                if number == 60:
                    world.write(pack_truncate(2), pack_insert(2, pair(3, "x", 5.0)))
                await trio.lowlevel.checkpoint()
        await world.reach()
        world.assert_right(*TABLES)


async def test_a_patch_onto_a_row_that_waits(world: World) -> None:
    """Replay patches a wrong row between the scan and its rewriting: it ends right as a whole."""
    before(world)
    since = span(world)
    async with world.running():
        world.kind.execute("UPDATE notes SET body = 'wrong' WHERE id = 1")
        real = world.resync._step
        patched = False

        def step(replica: Replica, job: Any) -> str:
            nonlocal patched
            if not patched and job.to_sweep is not None:
                patched = True
                trio.from_thread.run_sync(world.write, pack_patch(1, row("1", "pat", UNCHANGED, UNCHANGED)))
                return "more"  # replay takes its turn first
            return real(replica, job)

        world.resync._step = step  # type: ignore[method-assign]
        await world.resynced(since)
        await world.reach()
        world.assert_right("notes")
        assert patched


async def test_no_key_goes_back_in_time(world: World) -> None:
    """A reader polls a key that replay moves forward and resync rewrites; its number only grows."""
    before(world)
    since = span(world)
    seen: list[float] = []

    async def poll() -> None:
        while True:
            found = await trio.to_thread.run_sync(world.kind.execute, "SELECT n FROM notes WHERE id = 1")
            seen.append(float(str(found[0][0])))

    async with world.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            for number in range(2, 150):
                world.write(pack_update(1, note(1, n=f"{number}.00")))
                if number % 50 == 2:
                    nursery.start_soon(world.resynced, since)
                await trio.sleep(0.002)  # the pace of the writes, not a wait
            await world.finished()
            nursery.cancel_scope.cancel()
        assert len(seen) > 10
        assert seen == sorted(seen)
        await world.reach()
        world.assert_right("notes")


async def test_killed_after_any_chunk_it_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lives that end right after a chunk's commit, before it is noted as done: the next one goes on, to the end."""
    monkeypatch.setattr("replicator.verify.repair.resync.CHUNK_KEYS", 200)
    before(world)
    since = span(world)
    async with world.running():
        damage(world)
    world.end_life()
    lives = 0
    while await life(world, since if lives == 0 else None):
        lives += 1
        world.end_life()
    assert lives >= 3
    world.assert_right(*TABLES)


class Killed(Exception):
    pass


async def life(world: World, since: int | None) -> bool:
    """A life that ends at its second chunk; gives whether it did."""
    real, chunks = world.resync._work.done, 0

    def done(keys: Iterable[PendingKey], job: Mapping[str, Any]) -> None:
        nonlocal chunks
        chunks += 1
        if chunks == 2:
            raise Killed
        real(keys, job)

    world.resync._work.done = done  # type: ignore[method-assign]
    try:
        async with world.running():
            await opened(world)
            if since is not None:
                await world.resync.start(ResyncRequest(since * SECOND, None, None, None, "test", plan=False))
            await world.finished()
    except* Killed:
        pass
    return chunks >= 2


async def opened(world: World) -> None:
    while not world.resync._is_open:
        await trio.lowlevel.checkpoint()


async def test_one_at_a_time_and_cancel(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.verify.repair.resync.CHUNK_KEYS", 50)
    before(world)
    since = span(world)
    async with world.running():
        await opened(world)
        await world.resync.start(ResyncRequest(since * SECOND, None, None, None, "test", plan=False))
        with pytest.raises(Rejected, match="under_way"):
            await world.resync.start(ResyncRequest(since * SECOND, None, None, None, "test", plan=False))
        world.resync.cancel()
        job = await world.resync.ended()
        assert job is not None
        assert job.state == "cancelled"
        with pytest.raises(Rejected, match="nothing_under_way"):
            world.resync.cancel()
        await world.resynced(since)
        world.assert_right(*TABLES)


async def test_a_journal_that_begins_later_is_told(world: World) -> None:
    world.journal.close()
    world.directory.joinpath("journal.sqlite3").unlink()
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            world.directory.joinpath(f"journal.sqlite3{suffix}").unlink()
    world.journal.open()
    world.journal.begin_at(Position(STRAND, 1, 7, bytes(32)), {})
    world.resync._is_open = True
    with pytest.raises(Rejected, match="before_the_journal"):
        await world.resync.start(ResyncRequest(0, None, None, None, "test", plan=False))


def test_the_worklist_is_read_by_its_index(world: World) -> None:
    """The next keys are found without reading those that are done."""
    world.resync._work.open()
    world.resync._work.count()
    with sqlite3.connect(world.directory / "resync.sqlite3") as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT known, key, sequence, ordinal FROM key WHERE done = 0"
            " ORDER BY sequence, ordinal LIMIT 5"
        ).fetchall()
    assert "pending" in str(plan)
    assert "TEMP B-TREE" not in str(plan)
    world.resync._work.close()


@pytest.mark.parametrize("damaged", [b"no database at all" * 100, b""])
async def test_a_damaged_worklist_is_set_aside(world: World, damaged: bytes) -> None:
    before(world)
    since = span(world)
    (world.directory / "resync.sqlite3").write_bytes(damaged)
    async with world.running():
        damage(world)
        await world.resynced(since)
        world.assert_right(*TABLES)
    assert bool(list(world.directory.glob("resync.sqlite3.damaged-*"))) == bool(damaged)


async def test_nothing_since_then(world: World) -> None:
    before(world)
    async with world.running():
        await world.resynced(999_999)
        job = world.resync.job
        assert job is not None
        assert (job.blocks, job.keys, job.compared) == (0, 0, 0)


async def test_a_row_that_cannot_be_read_fails_the_resync_with_its_place(world: World) -> None:
    """Replay would halt at it, too; here it came into the journal behind the replica's back."""
    before(world)
    since = span(world)
    async with world.running():
        world.resync._expected_rows._statements.at = _unreadable  # type: ignore[method-assign]
        await opened(world)
        await world.resync.start(ResyncRequest(since * SECOND, None, None, None, "test", plan=False))
        job = await world.resync.ended()
        assert job is not None
        assert job.state == "failed"
        assert job.error is not None
        assert job.error["reason"] == "bad_row"
        world.write(pack_update(1, note(1, "replay goes on")))
        await world.reach()


def _unreadable(place: Place) -> LocatedStatement:
    raise Corrupt("bad_row", "at this instant", place=f"sequence {place[0]}")
