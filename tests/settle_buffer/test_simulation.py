"""Seeded worlds: ``SETTLE_SEEDS`` says how many (1,000), ``SETTLE_SEED`` runs one again."""

from __future__ import annotations

import os

import pytest

from tests.settle_buffer import simulation

BLOCKS = 10


def seeds_of(block: int) -> range:
    """The seeds of one of the blocks: every so many-th of all, or the one that was asked for."""
    if "SETTLE_SEED" in os.environ:
        seed = int(os.environ["SETTLE_SEED"])
        return range(seed, seed + 1)
    return range(block, int(os.environ.get("SETTLE_SEEDS", "1000")), BLOCKS)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_world_holds(block: int) -> None:
    failed = simulation.failures(iter(seeds_of(block)))
    assert not failed, "".join(f"\nSETTLE_SEED={seed}: {error}" for seed, error in failed)


def test_the_worlds_are_not_all_alike() -> None:
    worlds = [simulation.World(seed) for seed in range(60)]
    for world in worlds:
        world.run()
    assert {world.order for world in worlds} == {"sequence", "merged", "time"}
    assert any(world.late for world in worlds)
    assert any(world.crashes for world in worlds)
