"""A thousand random histories of failover hold every law, and those that once did not."""

from __future__ import annotations

import pytest

from replicator.ops.simulation.scenario import live
from tests.simulation.__main__ import failures
from tests.simulation.seeds import FAILED

SEEDS, CHUNK = 1_000, 100


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_histories_hold(first: int) -> None:
    failed = failures(range(first, first + CHUNK))
    assert not failed, f"python -m tests.simulation --seed {failed[0][0]} --trace shows it: {failed}"


@pytest.mark.parametrize("seed", FAILED)
def test_what_failed_once_holds(seed: int) -> None:
    live(seed)


def test_a_seed_is_one_history() -> None:
    assert live(4) == live(4)
