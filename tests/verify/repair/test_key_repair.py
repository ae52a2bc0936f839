"""Repair on both kinds of replica: just the keys that differ, from the journal, with a report before the change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from replicator.errors import Halted, Rejected, Unavailable
from replicator.format.row import UNCHANGED
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from replicator.pipeline.replicas.base import AppliedMark, Replica, Step
from tests.contracts.replica_kinds import contents, row, table
from tests.verify.repair.histories import before, evolve, line, span
from tests.verify.repair.world import World, note

TABLES = ("notes", "app.pairs", "log")
DAMAGE = (
    "UPDATE notes SET owner = 'hand' WHERE id = 1",
    "UPDATE notes SET more = NULL WHERE id = 30",
    "DELETE FROM notes WHERE id = 61",
    "INSERT INTO notes (id, owner) VALUES (5, 'ghost')",
    "INSERT INTO notes (id, owner) VALUES (9999, 'never there')",
)
KEYS: list[tuple[str, list[str]]] = [("notes", [key]) for key in ("1", "30", "61", "5", "9999", "2")]


def states(told: dict[str, Any]) -> dict[str, str]:
    return {key["key"]["id"]: key["state"] for key in told["keys"]}


async def test_a_dry_run_changes_nothing(world: World) -> None:
    before(world)
    span(world)
    evolve(world)
    async with world.running():
        for statement in DAMAGE:
            world.kind.execute(statement)
        stored = [contents(world.kind, table) for table in TABLES]
        files = files_of(world)
        told = await world.repairs.repair(KEYS, ["log"], "me", apply=False)
        assert states(told) == {
            "1": "differs",
            "30": "differs",
            "61": "differs",
            "5": "differs",
            "9999": "differs",
            "2": "agrees",
        }
        assert (told["applied"], told["report"]) == (False, None)
        assert [contents(world.kind, table) for table in TABLES] == stored
        assert files_of(world) == files
        assert not (world.directory / "repairs").exists()


def files_of(world: World) -> dict[str, bytes]:
    """The bytes of every file that holds something: the index may be brought forward, shared memory holds locks."""
    paths = [path for path in world.directory.iterdir() if path.is_file()]
    return {
        path.name: path.read_bytes() for path in paths if not path.name.endswith("-shm") and "history" not in path.name
    }


def read(path: Path | str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path(path).read_text())
    return report


async def test_apply_writes_just_those_keys_and_reports_what_they_held(world: World) -> None:
    before(world)
    span(world)
    evolve(world)
    async with world.running():
        for statement in DAMAGE:
            world.kind.execute(statement)
        world.kind.execute("UPDATE notes SET owner = 'not asked for' WHERE id = 33")
        told = await world.repairs.repair(KEYS, [], "me", apply=True)
        report = read(told["report"])
        assert report == told
        assert (report["applied"], report["who"], report["position"]) == (True, "me", str(world.applied.position))
        keys = {key["key"]["id"]: key for key in report["keys"]}
        assert keys["1"]["before"]["owner"] == "hand"
        assert keys["1"]["written"]["owner"] == "bob"
        assert keys["1"]["block"]["sequence"] == 6
        assert keys["61"]["before"] is None
        assert keys["61"]["written"] == {"id": "61", "owner": "moved", "amount": "4.50", "more": "older"}
        assert keys["5"]["written"] is None
        assert (keys["9999"]["written"], keys["9999"]["block"]) == (None, None)
        owners = {cells[0]: cells[1] for cells in contents(world.kind, "notes")}
        assert owners["33"] == "not asked for"
        world.kind.execute("UPDATE notes SET owner = 'ann' WHERE id = 33")
        world.assert_right(*TABLES)
        again = await world.repairs.repair(KEYS, [], "me", apply=True)
        assert set(states(again).values()) == {"agrees"}
        assert again["report"] is None


async def test_a_table_without_a_key(world: World) -> None:
    """Lines that were altered, lost and added are found by their places, before and behind a truncate."""
    before(world)
    span(world)
    world.write(pack_truncate(3))
    world.write(*(pack_insert(3, line("fresh", number)) for number in range(30)))
    async with world.running():
        world.kind.execute("UPDATE log SET line = 'hand' WHERE n = 3")
        world.kind.execute("DELETE FROM log WHERE n = 4")
        world.kind.execute("INSERT INTO log (line, n, _sequence, _ordinal) VALUES ('early', 0, 4, 0), ('x', 1, 999, 7)")
        told = await world.repairs.repair([], ["log"], "me", apply=True)
        assert sorted((key["key"]["_ordinal"], key["before"] is None) for key in told["keys"]) == [
            ("0", False),
            ("3", False),
            ("4", True),
            ("7", False),
        ]
        world.assert_right("log")
        with pytest.raises(Rejected, match="has_key"):
            await world.repairs.repair([], ["notes"], "me", apply=True)
        with pytest.raises(Rejected, match="unknown_table"):
            await world.repairs.repair([("nothing", ["1"])], [], "me", apply=True)


async def test_killed_between_report_and_change(world: World) -> None:
    """The report is on disk, whole, and the row is as it was."""
    before(world)
    async with world.running():
        world.kind.execute("UPDATE notes SET owner = 'hand' WHERE id = 1")
        failing = world.replica.apply

        def apply(strand: str, steps: Sequence[Step]) -> None:
            raise Unavailable("killed", "at this instant", place="test")

        world.replica.apply = apply  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="killed"):
            await world.repairs.repair(KEYS[:1], [], "me", apply=True)
        world.replica.apply = failing  # type: ignore[method-assign]
        (path,) = (world.directory / "repairs").glob("*.json")
        report = read(path)
        assert report["applied"] is False
        assert report["keys"][0]["before"]["owner"] == "hand"
        assert contents(world.kind, "notes")[0][1] == "hand"
        world.write(pack_update(1, note(2, "goes on")))
        await world.reach()
        assert (await world.repairs.repair(KEYS[:1], [], "me", apply=True))["applied"]
        world.assert_right("notes")


async def test_replay_that_a_missing_row_stopped_goes_on(world: World) -> None:
    before(world)
    async with world.running():
        pass
    world.replica.close()
    world.kind.execute("DELETE FROM notes WHERE id = 7")
    world.write(pack_patch(1, row("7", UNCHANGED, UNCHANGED, "0.07")))
    world.begin_life()
    with pytest.raises(BaseExceptionGroup) as stopped:
        async with world.running():
            pass
    assert stopped.group_contains(Halted, match="replica_row_missing", depth=None)
    told = await world.repairs.repair([("notes", ["7"])], [], "me", apply=True)
    assert told["applied"]
    world.replica.close()
    world.begin_life()
    async with world.running():
        world.assert_right("notes")


async def test_keys_as_people_write_them(world: World) -> None:
    before(world)
    async with world.running():
        world.kind.execute("UPDATE notes SET owner = 'hand' WHERE id = 1")
        told = await world.repairs.repair([("notes", ["01"]), ("app.pairs", ["3", "x"])], [], "me", apply=True)
        assert [key["state"] for key in told["keys"]] == ["differs", "agrees"]
        assert told["keys"][0]["key"] == {"id": "1"}
        world.assert_right("notes")
        with pytest.raises(Rejected, match="bad_key"):
            await world.repairs.repair([("app.pairs", ["3"])], [], "me", apply=True)


async def test_two_images_of_one_key(world: World) -> None:
    """To PostgreSQL 1.0 and 1.00 are one key: setting the one right must not take the other away."""
    amounts = table([("amount", "numeric"), ("v", "text")], ["amount"], name="amounts")
    world.write(pack_define(9, amounts), pack_insert(9, row("1.0", "a")), pack_insert(9, row("2.0", "b")))
    world.write(pack_update(9, row("1.00", "c"), row("1.0")))
    keys = [("amounts", [key]) for key in ("1.0", "1.00", "2.0")]
    async with world.running():
        told = await world.repairs.repair(keys, [], "me", apply=True)
        assert {key["state"] for key in told["keys"]} == {"agrees"}
        world.kind.execute("UPDATE amounts SET v = 'hand'")
        await world.resynced(2)
        world.assert_right("amounts")
        world.kind.execute("DELETE FROM amounts")
        await world.repairs.repair(keys, [], "me", apply=True)
        world.assert_right("amounts")


async def test_what_the_journal_does_not_hold_is_left_alone(world: World) -> None:
    """A journal that begins later: rows that nothing touched since, and a long value that is older."""
    before(world)
    async with world.running():
        pass
    world.replica.close()
    position, definitions = world.journal.head("main"), world.journal.packed_definitions("main")
    world.close()
    for name in ("journal", "history"):
        for suffix in ("", "-wal", "-shm"):
            (world.directory / f"{name}.sqlite3{suffix}").unlink(missing_ok=True)
    world.journal.open()
    world.journal.begin_at(position, definitions)
    world.history.open()
    world.write(
        pack_patch(1, row("2", "pat", UNCHANGED, "2.00")), pack_update(1, note(3, "new")), pack_delete(1, row("4"))
    )
    world.begin_life()
    async with world.running():
        world.kind.execute("UPDATE notes SET owner = 'hand' WHERE id IN (1, 2, 3)")
        world.kind.execute("INSERT INTO notes (id, owner) VALUES (4, 'ghost')")
        told = await world.repairs.repair([("notes", [key]) for key in "1234"], [], "me", apply=True)
        assert states(told) == {"1": "unknown", "2": "unknown", "3": "differs", "4": "differs"}
        owners = {cells[0]: cells[1] for cells in contents(world.kind, "notes")}
        assert {key: owners.get(key) for key in "1234"} == {"1": "hand", "2": "hand", "3": "new", "4": None}


async def test_what_the_journal_has_let_go_is_unknown(world: World) -> None:
    """The index knows of blocks that the journal had once."""
    before(world)
    world.write(pack_update(1, note(1, "new")), pack_patch(1, row("2", "pat", UNCHANGED, "2.00")))
    async with world.running():
        await world.repairs.repair([("notes", ["1"])], [], "me", apply=False)  # the index is at the end
        with sqlite3.connect(world.directory / "journal.sqlite3") as db:
            db.execute("DELETE FROM page WHERE last <= 4")
            db.execute("INSERT INTO note VALUES ('base:main', ?)", [str(world.journal.position_at("main", 5))])
            db.execute("UPDATE note SET value = replace(value, ':5:', ':4:')")
        db.close()
        world.kind.execute("UPDATE notes SET owner = 'hand' WHERE id IN (1, 2, 3)")
        told = await world.repairs.repair([("notes", [key]) for key in "123"], [], "me", apply=True)
        assert states(told) == {"1": "differs", "2": "unknown", "3": "unknown"}
        assert all(key["why"] for key in told["keys"] if key["state"] == "unknown")
        since = 6
        await world.resynced(since)
        job = world.resync.job
        assert job is not None
        assert (job.keys, job.unknown, job.differing) == (2, 1, 0)


async def test_an_index_that_is_far_behind_is_brought_forward_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replay waits for the last few blocks of it at most."""
    monkeypatch.setattr("replicator.verify.repair.key_repair.INDEX_BLOCKS", 3)
    before(world)
    for number in range(30):
        world.write(pack_update(1, note(1, f"owner {number}")))
    async with world.running():
        assert world.history.indexed("main") == 0
        world.kind.execute("UPDATE notes SET owner = 'hand' WHERE id = 1")
        with trio.fail_after(10):
            await world.repairs.repair(KEYS[:1], [], "me", apply=True)
        world.assert_right("notes")


async def test_work_between_two_steps_is_undone_if_it_fails(world: World) -> None:
    before(world)

    def work(replica: Replica, _: AppliedMark) -> None:
        replica.begin()
        replica.apply("main", [])
        raise RuntimeError("at this instant")

    async with world.running():
        with pytest.raises(RuntimeError, match="instant"):
            await world.replay.between_steps(work)
        assert await world.replay.between_steps(lambda replica, _: replica.applied("main")) is not None
        world.write(pack_update(1, note(1, "goes on")))
        await world.reach()
        world.assert_right("notes")
