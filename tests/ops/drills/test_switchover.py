"""Drills on regions that take over from each other: a switchover and back, and the loss of the primary's region."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from replicator.ops.drills.report.form import DrillReport
from tests.e2e.sidecars import Sidecar, sequence
from tests.ops.drills import phases
from tests.ops.drills.deployment import Drill
from tests.servers import free_port

NAMES = ("paris", "tokyo", "lima")


class Cluster:
    """Three regions on the embedded ledger, with a lease in a file that they share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ports = {name: free_port() for name in NAMES}
        regions = ", ".join(f'{name} = "http://127.0.0.1:{port}"' for name, port in ports.items())
        self.sidecars = {name: self._region(name, port, regions) for name, port in ports.items()}

    def _region(self, name: str, port: int, regions: str) -> Sidecar:
        role = "primary" if name == "paris" else "replica"
        ledger = (
            '[source]\nkind = "embedded"\n' if role == "primary" else '[replica]\nkind = "sqlite"\npath = "ledger.db"\n'
        )
        sidecar = Sidecar(self.directory, name, role, "")
        sidecar.port, sidecar.url = port, f"http://127.0.0.1:{port}"
        sidecar.config.write_text(
            f'[region]\nname = "{name}"\nrole = "{role}"\ndata_dir = "data"\n\n[http]\nlisten = "127.0.0.1:{port}"\n\n'
            f"{ledger}\n[cluster]\nregions = {{ {regions} }}\n\n"
            f'[lease]\nkind = "static"\npath = "{self.directory}/lease.json"\nttl = "4s"\n\n'
            f'[failover]\nmode = "automatic"\nsuspect = "1s"\nquiet = "1s"\nmax_lost_blocks = 1000\n'
        )
        return sidecar

    def start(self) -> None:
        """Start all; wait until one leads and the others have what it has."""
        for sidecar in self.sidecars.values():
            sidecar.start()
        paris = self.sidecars["paris"]
        paris.reach(lambda status: self.leads("paris"), "the lead")
        table = httpx.put(f"{paris.url}/v1/tables/wallets", json={"key": "wallet_id"}, trust_env=False)
        assert table.status_code == 201, table.text
        for name in ("tokyo", "lima"):
            self.sidecars[name].reach(lambda status: sequence(status, "applied") >= 1, "the first block")

    def leads(self, name: str) -> bool:
        """Whether a region is primary and open."""
        try:
            answer = httpx.get(f"{self.sidecars[name].url}/v1/failover", trust_env=False, timeout=5)
        except httpx.HTTPError:
            return False
        report = answer.json()["report"]
        return bool(report["state"] == "primary" and report["open"])

    def end(self) -> None:
        """Everything goes."""
        for sidecar in self.sidecars.values():
            sidecar.end()

    def logs(self) -> str:
        """All logs, for a failing test."""
        return "\n".join(f"--- {name}\n{sidecar.log()}" for name, sidecar in self.sidecars.items())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    deployment = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.end()


SWITCHOVER = """
kind = "switchover"
target = "tokyo"
duration = "1s"
[targets]
rpo_blocks = 0
rto = "10s"
max_blocked = "10s"
[steps]
steady = "500ms"
change = "20s"
recover = "40s"
"""


def test_a_switchover_and_back_is_measured_and_leaves_all_as_it_was(cluster: Cluster, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", SWITCHOVER, str(cluster.sidecars["lima"].config))
    with phases.crowding() as crowded:
        code, said = drill.run()
    assert code == 0, said + cluster.logs()
    report = drill.report()
    there, back = report["changes"]
    assert (there["old"], there["new"]) == ("paris", "tokyo")
    assert (back["old"], back["new"]) == ("tokyo", "paris")
    for change in (there, back):
        steps = [step["step"] for step in change["steps"]]
        assert steps[:2] == ["order", "decision"]
        assert [step for step in steps if step in ("fence", "drain", "promote", "first write")] == [
            *("fence", "drain", "promote", "first write")
        ]
        assert 0 < change["rto_seconds"] < 10
        assert change["blocked_seconds"] < 10
    assert report["rpo_blocks"] == 0
    assert {region["compared"] for region in report["regions"]} == {"reference", "equal"}
    assert cluster.leads("paris")
    assert drill.left() == []
    phases.compare(DrillReport.model_validate(report), cluster.sidecars["lima"].config, drill.plan, crowded)


def test_the_next_drill_goes_back_where_a_killed_one_left_the_primary(cluster: Cluster, tmp_path: Path) -> None:
    config = str(cluster.sidecars["lima"].config)
    process = Drill(tmp_path / "drill", SWITCHOVER.replace('duration = "1s"', 'duration = "60s"'), config).start()
    cluster.sidecars["tokyo"].reach(lambda status: cluster.leads("tokyo"), "the lead")
    process.kill()
    process.communicate()
    drill = Drill(tmp_path / "drill", 'kind = "canary"\nduration = "500ms"\n[steps]\nsteady = "200ms"\n', config)
    assert len(drill.left()) == 1
    code, said = drill.run()
    assert code == 0, said + cluster.logs()
    assert "the primary is in tokyo, and goes back to paris" in said
    assert cluster.leads("paris")
    assert drill.left() == []


def loss(cluster: Cluster) -> str:
    """A plan that kills the primary's process, and starts another one for it."""
    paris = cluster.sidecars["paris"]
    assert paris.process is not None
    log = cluster.directory / "paris" / "log"
    again = f"exec {sys.executable} -m replicator run {paris.config} >> {log} 2>&1 & echo $! > {cluster.directory}/pid"
    return f"""
kind = "region_loss"
target = "paris"
duration = "1s"
[fault]
inject = ["kill", "-KILL", "{paris.process.pid}"]
undo = ["sh", "-c", "test -e {cluster.directory}/pid || {{ {again}; }}"]
[targets]
rpo_blocks = 50
rto = "20s"
[steps]
steady = "500ms"
change = "40s"
recover = "60s"
"""


def test_the_loss_of_the_primarys_region_is_survived_measured_and_undone(cluster: Cluster, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", loss(cluster), str(cluster.sidecars["tokyo"].config))
    try:
        code, said = drill.run()
        assert code == 0, said + cluster.logs()
        report = drill.report()
        event, back = report["changes"]
        assert event["old"] == "paris"
        assert event["new"] in ("tokyo", "lima")
        assert back["new"] == "paris"
        names = [step["step"] for step in event["steps"]]
        assert names[:3] == ["fault", "detection", "decision"]
        assert "first write" in names
        assert 1 < event["rto_seconds"] < 20
        assert event["blocked_seconds"] >= event["rto_seconds"] - 0.5
        assert {region["compared"] for region in report["regions"]} == {"reference", "equal"}
        assert cluster.leads("paris")
    finally:
        pid = cluster.directory / "pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGKILL)
