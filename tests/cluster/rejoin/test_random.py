"""Random histories that part: what only one region has is undone to the row, and then it follows like any other.
REPLICATOR_TEST_SEED repeats a run."""

from __future__ import annotations

import copy
import dataclasses
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from replicator.format.definition import Column
from replicator.format.statement import pack_define, pack_insert, pack_truncate
from tests.cluster.rejoin.chains import Chain, digests, sealed
from tests.contracts.replica_kinds import Kind, PostgresKind, SqliteKind, row
from tests.verify.repair.histories import line
from tests.verify.repair.test_random import Writer
from tests.verify.repair.world import NOTES

BASE_SEED = int(os.environ.get("REPLICATOR_TEST_SEED") or random.SystemRandom().randrange(2**32))
MORE = dataclasses.replace(NOTES, columns=(*NOTES.columns, Column("more", "text", number=5, missing="older")))
OTHER = dataclasses.replace(NOTES, table="others", user=None)


def continued(writer: Writer, chain: Chain, draws: random.Random) -> Writer:
    """A writer who goes on in another chain."""
    other = copy.copy(writer)
    other.world, other.draws = chain, draws
    other.there, other.touched = set(writer.there), []
    return other


def define_something(chain: Chain, draws: random.Random) -> None:
    """A table more, or another column of one."""
    chain.write(pack_define(4, OTHER), *(pack_insert(4, row(str(n), "x", "y", "1")) for n in range(3)))
    chain.write(pack_define(5, MORE))
    if draws.random() < 0.5:
        chain.write(pack_insert(5, row("900", "new", "b", "1.50", "more")))
    chain.write(pack_insert(3, line("late", 1)), pack_truncate(3), pack_insert(3, line("later", 2)))


async def part_and_come_back(chains: Sequence[Chain], seed: int) -> None:
    old, new, reference = chains
    draws = random.Random(seed)
    old.define()
    writer = Writer(old, draws)
    for _ in range(draws.randrange(5, 40)):
        writer.block()
    new.take(old)
    reference.take(old)
    reference.replay()
    fork_sequence = old.head.sequence
    ours, theirs = continued(writer, old, draws), continued(writer, new, random.Random(seed + 1))
    for _ in range(draws.randrange(1, 15)):
        ours.block()
    if draws.random() < 0.5:
        define_something(old, draws)
    old.replay(draws.choice((None, None, fork_sequence + 1)))
    for _ in range(draws.randrange(0, 15)):
        theirs.block()
    new.replay()
    fork, seal = await sealed(old, new)
    assert fork.position.sequence == fork_sequence
    old.rewind().run(seal, fork)
    assert old.head == fork.position
    assert digests(old.kind) == digests(reference.kind)
    old.take(new)
    old.replay()
    assert old.head == new.head
    assert digests(old.kind) == digests(new.kind)
    for table, key in (("notes", "3"), ("notes", "7")):  # the index of the past knows the new chain alone
        for chain in (old, new):
            while chain.history.indexed("main") < chain.head.sequence:
                chain.history.step("main", chain.head.sequence)
        assert old.history.entries("main", table, [key], None, 100) == new.history.entries(
            "main", table, [key], None, 100
        )


@pytest.mark.parametrize("number", range(12))
async def test_a_random_history(tmp_path: Path, number: int) -> None:
    seed = BASE_SEED + number
    print(f"seed {seed}")
    kinds: list[Kind] = [SqliteKind(tmp_path / f"{name}.db") for name in ("old", "new", "reference")]
    chains = [Chain(tmp_path / name, kind) for name, kind in zip(("o", "n", "r"), kinds, strict=True)]
    chains[1].epoch = 2
    await part_and_come_back(chains, seed)
    for chain in chains:
        chain.close()


@pytest.mark.parametrize("number", range(3))
async def test_on_postgres(tmp_path: Path, number: int, new_database: Callable[[], str]) -> None:
    seed = BASE_SEED + 1000 + number
    print(f"seed {seed}")
    chains = [Chain(tmp_path / name, PostgresKind(new_database())) for name in ("o", "n", "r")]
    chains[1].epoch = 2
    await part_and_come_back(chains, seed)
    for chain in chains:
        chain.close()
