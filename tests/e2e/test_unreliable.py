"""The main job over a network that drops, doubles, displaces and cuts, while sidecars and a server are killed.

In the end all regions are equal, each block was applied once, and the figures show that the network did misbehave.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.deployment import Deployment, seed
from tests.e2e.sidecars import Sidecar
from tests.e2e.test_pgbench import TABLES
from tests.servers import free_port

ROUNDS = 8
SETTLE = '[settle]\nwindow = "200ms"\ngap_repeat = "500ms"\n\n'


class Network:
    """The unreliable process between the primary and its followers."""

    def __init__(self, number: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.seed = number
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, upstream: str) -> None:
        command = [sys.executable, "-m", "tests.e2e.unreliable", "--listen", str(self.port)]
        self._process = subprocess.Popen([*command, "--upstream", upstream, "--seed", str(self.seed)])

    def misdeeds(self) -> dict[str, int]:
        answer: dict[str, int] = httpx.get(f"{self.url}/misdeeds", timeout=5, trust_env=False).json()
        return answer

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def network() -> Iterator[Network]:
    print(f"REPLICATOR_TEST_SEED={(number := seed())}")
    network = Network(number)
    yield network
    network.end()


@pytest.fixture
def deployment(tmp_path: Path, network: Network) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, follow=network.url, settle=SETTLE)
    network.start(deployment.primary.url)
    yield deployment
    deployment.end()


def figure(region: Sidecar, name: str) -> float:
    found = region.metric(name)
    assert found is not None, name
    return found


def test_pgbench_over_an_unreliable_network(deployment: Deployment, network: Network) -> None:
    initialisation = deployment.pgbench("-i", "-q", "-s", "1")
    initialisation.communicate(timeout=60)
    assert initialisation.returncode == 0
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.kill_while(deployment.pgbench("-c", "4", "-T", "10"), random.Random(network.seed), each=1)
    for _ in range(ROUNDS):  # misdeeds come by the block: a slow machine makes fewer of both in a time
        if min(network.misdeeds().values()) > 0:
            break
        deployment.pgbench("-n", "-c", "4", "-T", "5").communicate(timeout=60)
        deployment.converge()
    deployment.converge()
    deployment.assert_equal(TABLES)
    deployment.assert_each_block_once()
    misdeeds = network.misdeeds()
    assert min(misdeeds.values()) > 0, misdeeds
    for region in (deployment.lima, deployment.tokyo):
        figures = {
            name: figure(region, f"replicator_settle_{name}")
            for name in ("gaps_opened_total", "gaps_filled_total", "gap_requests_total", "open_gaps", "entries")
        }
        figures["duplicates_total"] = figure(region, "replicator_duplicates_total")
        print(region.name, figures, misdeeds)
        assert figures["gaps_opened_total"] >= figures["gaps_filled_total"] > 0
        assert figures["gap_requests_total"] > 0
        assert figures["duplicates_total"] > 0
        assert figures["open_gaps"] == figures["entries"] == 0
        assert figure(region, "replicator_settle_lateness_seconds_sum") > 0
