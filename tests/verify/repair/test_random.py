"""Random histories and random damage: what was touched since a random block ends as a replica has it that was only
replayed to; and repair finds just the keys that were damaged. REPLICATOR_TEST_SEED repeats a run."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Protocol

import pytest

from replicator.format.row import UNCHANGED, Cell
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from tests.contracts.replica_kinds import SqliteKind, contents, row
from tests.verify.repair.histories import line
from tests.verify.repair.world import LOG, NOTES, PAIRS, World

BASE_SEED = int(os.environ.get("REPLICATOR_TEST_SEED") or random.SystemRandom().randrange(2**32))


class Strand(Protocol):
    """What takes blocks."""

    def write(self, *statements: bytes, parts: int = 0) -> int: ...


class Writer:
    """Writes consistent statements about the notes and lines of the log."""

    def __init__(self, world: Strand, draws: random.Random) -> None:
        self.world = world
        self.draws = draws
        self.there: set[int] = set()
        self.touched: list[set[int]] = []  # by block, from sequence 2 on

    def block(self) -> None:
        touched: set[int] = set()
        statements = [self.statement(touched) for _ in range(self.draws.randrange(1, 8))]
        self.world.write(*statements, parts=self.draws.choice((0, 0, 0, 2)))
        self.touched.append(touched)

    def statement(self, touched: set[int]) -> bytes:
        draws, key = self.draws, self.draws.randrange(25)
        if draws.random() < 0.15:
            return pack_insert(3, line("line", draws.randrange(1000)))
        touched.add(key)
        if draws.random() < 0.02:
            touched.update(range(25))
            self.there.clear()
            return pack_truncate(1)
        if key not in self.there:
            self.there.add(key)
            return pack_insert(1, self.note(key))
        kind = draws.choice(("update", "patch", "patch", "delete", "move", "move by patch"))
        if kind == "update":
            return pack_update(1, self.note(key))
        if kind == "patch":
            return pack_patch(1, self.note(key, patched=True))
        self.there.discard(key)
        free = [number for number in range(25) if number not in self.there]
        if kind == "delete":
            return pack_delete(1, row(str(key)))
        other = draws.choice(free)
        touched.add(other)
        self.there.add(other)
        if kind == "move":
            return pack_update(1, self.note(other), row(str(key)))
        return pack_patch(1, self.note(other, patched=True), row(str(key)))

    def note(self, key: int, *, patched: bool = False) -> bytes:
        cells: list[Cell | str] = [f"o{self.draws.randrange(99)}", f"b{self.draws.randrange(99)}", "1.00"]
        if patched:
            cells = [cell if self.draws.random() < 0.5 else UNCHANGED for cell in cells]
        return row(str(key), *cells)


def damage(world: World, draws: random.Random, keys: set[int]) -> None:
    for key in keys:
        way = draws.randrange(3)
        if way == 0:
            world.kind.execute(f"DELETE FROM notes WHERE id = {key}")
        else:
            world.kind.execute(f"UPDATE notes SET {draws.choice(('owner', 'body', 'n'))} = '7' WHERE id = {key}")
            if not world.kind.execute(f"SELECT 1 FROM notes WHERE id = {key}") and way == 1:
                world.kind.execute(f"INSERT INTO notes (id, owner) VALUES ({key}, 'ghost')")


@pytest.mark.parametrize("number", range(15))
async def test_a_random_history(tmp_path: Path, number: int) -> None:
    seed = BASE_SEED + number
    print(f"seed {seed}")
    draws = random.Random(seed)
    world = World(tmp_path, (SqliteKind(tmp_path / "replica.db"), SqliteKind(tmp_path / "reference.db")))
    world.write(*(pack_define(number, table) for number, table in enumerate((NOTES, PAIRS, LOG), 1)))
    writer = Writer(world, draws)
    for _ in range(draws.randrange(20, 60)):
        writer.block()
    since = draws.randrange(2, len(writer.touched) + 2)
    async with world.running():
        keys = set().union(*writer.touched[since - 2 :])
        right = contents(world.kind, "notes")
        damage(world, draws, {key for key in keys if draws.random() < 0.7})
        before = contents(world.kind, "notes")
        wrong = {cells[0] for cells in before if cells not in right} | {c[0] for c in right if c not in before}
        told = await world.repairs.repair([("notes", [str(key)]) for key in range(25)], ["log"], "me", apply=False)
        found = {key["key"]["id"] for key in told["keys"] if key["state"] == "differs"}
        assert found == wrong
        await world.resynced(since)
        world.assert_right("notes", "log")
        job = world.resync.job
        assert job is not None
        assert (job.differing, job.unknown) == (len(wrong), 0)
    world.close()
