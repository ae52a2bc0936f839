"""Seeded worlds: ``SETTLE_SEEDS`` says how many (1,000), ``SETTLE_SEED`` runs one again."""

from __future__ import annotations

import os

import pytest

from tests.settle_buffer import simulation

BLOCKS = 10


@pytest.mark.skipif("SETTLE_SEED" in os.environ, reason="one seed was asked for")
@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_world_holds(block: int) -> None:
    seeds = int(os.environ.get("SETTLE_SEEDS", "1000"))
    failed = simulation.failures(iter(range(block, seeds, BLOCKS)))
    assert not failed, "".join(f"\nSETTLE_SEED={seed}: {error}" for seed, error in failed)


@pytest.mark.skipif("SETTLE_SEED" not in os.environ, reason="no single seed was asked for")
def test_one_world_holds() -> None:
    simulation.World(int(os.environ["SETTLE_SEED"])).run()


def test_the_worlds_are_not_all_alike() -> None:
    worlds = [simulation.World(seed) for seed in range(60)]
    for world in worlds:
        world.run()
    assert {world.order for world in worlds} == {"sequence", "merged", "time"}
    assert any(world.late for world in worlds)
    assert any(world.crashes for world in worlds)
