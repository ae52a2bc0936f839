"""The main job: a program that nobody here wrote works on a real primary, two regions follow, everything is killed.

In the end both regions are equal to the primary, row for row, and each block was applied exactly once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.deployment import Deployment, seed

TABLES = {
    "pgbench_accounts": ["aid", "bid", "abalance", "filler"],
    "pgbench_branches": ["bid", "bbalance", "filler"],
    "pgbench_tellers": ["tid", "bid", "tbalance", "filler"],
    "pgbench_history": ["tid", "bid", "aid", "delta", "mtime", "filler"],
}
KILLS = 3


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    yield deployment
    deployment.end()


def test_pgbench_with_every_process_killed(deployment: Deployment) -> None:
    draws = random.Random(number := seed())
    print(f"REPLICATOR_TEST_SEED={number}")
    initialisation = deployment.pgbench("-i", "-q", "-s", "10")
    initialisation.communicate(timeout=120)
    assert initialisation.returncode == 0
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.kill_while(deployment.pgbench("-c", "4", "-T", "30"), draws, KILLS)
    deployment.converge()
    deployment.assert_equal(TABLES)
    deployment.assert_each_block_once()
    assert [sidecar.kills for sidecar in deployment.sidecars] == [KILLS] * 3
    assert deployment.server_kills == KILLS
