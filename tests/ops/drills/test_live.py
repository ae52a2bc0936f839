"""Drills on two real regions: measured, undone whatever ends them, and told to the regions."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.sidecars import Sidecar
from tests.ops.drills.deployment import Drill, Pair

QUICK = '[steps]\nsteady = "200ms"\nrecover = "30s"\n'


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    deployment = Pair(tmp_path_factory.mktemp("pair"))
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.end()


def frozen(pair: Pair, duration: str = "2s", *, undo: str = "CONT", **sections: str) -> str:
    """A plan that stops tokyo's process for a while."""
    assert pair.tokyo.process is not None
    process = pair.tokyo.process.pid
    targets, stop = sections.get("targets", "rpo_blocks = 0"), sections.get("stop", "")
    return f"""
kind = "sidecar_crash"
target = "tokyo"
duration = "{duration}"
expect = "no_failover"
[fault]
inject = ["kill", "-STOP", "{process}"]
undo = ["kill", "-{undo}", "{process}"]
timeout = "5s"
[targets]
{targets}
[stop]
{stop}
{QUICK}"""


def is_stopped(sidecar: Sidecar) -> bool:
    assert sidecar.process is not None
    return Path(f"/proc/{sidecar.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def test_canaries_go_through_the_whole_path(pair: Pair, tmp_path: Path) -> None:
    plan = 'kind = "canary"\nduration = "2s"\n[targets]\nrpo_blocks = 0\nmax_blocked = "5s"\namounts = { EUR = 0.0 }\n'
    drill = Drill(tmp_path / "drill", plan + QUICK, str(pair.tokyo.config))
    code, said = drill.run()
    assert code == 0, said
    report = drill.report()
    assert report["outcome"] == "passed"
    assert (report["rpo_blocks"], report["rpo_amounts"]) == (0, {"EUR": 0.0})
    assert {target["name"]: target["met"] for target in report["targets"]} == {
        "rpo_blocks": True,
        "rpo EUR": True,
        "max_blocked": True,
        "regions_equal": True,
        "no_failover": True,
    }
    regions = {region["region"]: region for region in report["regions"]}
    assert (regions["paris"]["compared"], regions["tokyo"]["compared"]) == ("reference", "equal")
    assert regions["paris"]["digests"] == regions["tokyo"]["digests"]
    assert regions["tokyo"]["visible_p50_seconds"] > 0
    canaries = report["canaries"]
    assert canaries["acknowledged"] == canaries["written"] > 15
    assert len(report["config_fingerprint"]) == 64
    assert report["notes"] == []
    assert drill.left() == []
    # The canaries are gone again, and each region knows of the drill.
    left = httpx.get(f"{pair.paris.url}/v1/tables/replicator_canary/users/{report['id']}", trust_env=False)
    assert left.json()["documents"] == []
    for sidecar in pair.sidecars:
        (told,) = newest(sidecar)
        assert (told["id"], told["outcome"], told["rpo_blocks"]) == (report["id"], "passed", 0)
        assert sidecar.metric("replicator_drill_passed") == 1
    html = (drill.report_dir / "report.html").read_text()
    assert report["id"] in html
    assert "http://" not in html.replace(pair.paris.url, "").replace("http://www.w3.org", "")


def newest(sidecar: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{sidecar.url}/v1/drills", trust_env=False).json()["drills"]
    return found[:1]


def test_a_fault_is_injected_undone_and_recovered_from(pair: Pair, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", frozen(pair), "--region", pair.paris.url, "--region", f"tokyo={pair.tokyo.url}")
    code, said = drill.run()
    assert code == 0, said
    assert not is_stopped(pair.tokyo)
    report = drill.report()
    away = [span for span in report["spans"] if (span["region"], span["state"]) == ("tokyo", "away")]
    assert 1.5 < sum(span["ended_at"] - span["began_at"] for span in away) < 6
    assert report["at_risk_blocks"] > 10
    assert report["regions"][0]["missing_blocks"] == report["regions"][1]["missing_blocks"] == 0
    assert drill.left() == []


def test_a_missed_target_is_exit_1(pair: Pair, tmp_path: Path) -> None:
    drill = Drill(
        tmp_path / "drill",
        'kind = "canary"\nduration = "1s"\n[targets]\nmax_blocked = "1ms"\n' + QUICK,
        str(pair.tokyo.config),
    )
    code, said = drill.run()
    assert code == 1, said
    assert "MISS max_blocked" in said
    assert drill.report()["outcome"] == "missed"


def test_it_stops_itself_when_too_much_is_at_risk(pair: Pair, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", frozen(pair, "60s", stop="at_risk_blocks = 15"), str(pair.tokyo.config))
    began = time.monotonic()
    code, said = drill.run()
    assert code == 3, said
    assert time.monotonic() - began < 30
    report = drill.report()
    assert report["outcome"] == "stopped"
    assert "blocks are at risk, 15 may be" in report["why"]
    assert 15 < report["at_risk_blocks"] < 60
    assert not is_stopped(pair.tokyo)
    assert report["regions"][1]["compared"] in ("equal", "reference")


def started_and_frozen(pair: Pair, drill: Drill) -> subprocess.Popen[str]:
    process = drill.start()
    deadline = time.monotonic() + 30
    while not is_stopped(pair.tokyo):
        assert time.monotonic() < deadline
        time.sleep(0.02)  # polls another process
    return process


def test_a_drill_that_is_told_to_stop_undoes_what_it_did(pair: Pair, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", frozen(pair, "60s"), str(pair.tokyo.config))
    process = started_and_frozen(pair, drill)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert not is_stopped(pair.tokyo)
    assert "SIGINT" in drill.report()["why"]
    assert drill.left() == []


def test_what_a_killed_drill_did_is_undone_by_the_next(pair: Pair, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", frozen(pair, "60s"), str(pair.tokyo.config))
    process = started_and_frozen(pair, drill)
    try:
        refused = Drill(tmp_path / "drill", frozen(pair, "1s"), str(pair.tokyo.config)).run()
        assert (refused[0], "another drill is under way" in refused[1]) == (1, True), refused[1]
        process.kill()
        process.communicate()
        assert is_stopped(pair.tokyo)
        (note,) = drill.left()
        drill_id = note.removesuffix(".undo.json")
        assert canaries_left(pair, drill_id) > 0
        after = Drill(tmp_path / "drill", 'kind = "canary"\nduration = "1s"\n' + QUICK, str(pair.tokyo.config))
        code, said = after.run()
        assert not is_stopped(pair.tokyo)
        assert code == 0, said
        assert "a drill was killed" in said
        assert after.left() == []
        assert canaries_left(pair, drill_id) == 0
    finally:
        assert pair.tokyo.process is not None
        pair.tokyo.process.send_signal(signal.SIGCONT)


def canaries_left(pair: Pair, drill_id: str) -> int:
    answer = httpx.get(f"{pair.paris.url}/v1/tables/replicator_canary/users/{drill_id}", trust_env=False)
    return len(answer.json()["documents"])


def test_what_cannot_be_undone_is_said_and_stays_noted(pair: Pair, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", frozen(pair, "1s", undo="NONSENSE"), str(pair.tokyo.config))
    process = started_and_frozen(pair, drill)
    assert pair.tokyo.process is not None
    pair.tokyo.process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert "not undone, do it by hand: kill -NONSENSE" in drill.report()["why"]
    assert len(drill.left()) == 1
    again = Drill(tmp_path / "drill", 'kind = "canary"\n', str(pair.tokyo.config)).run()
    assert again[0] == 2
    assert "do by hand what could not be undone" in again[1]


def test_a_fault_that_cannot_be_brought_about_is_undone_and_said(pair: Pair, tmp_path: Path) -> None:
    mark = tmp_path / "undone"
    plan = f"""
kind = "disk_full"
target = "tokyo"
[fault]
inject = ["false"]
undo = ["touch", "{mark}"]
{QUICK}"""
    drill = Drill(tmp_path / "drill", plan, str(pair.tokyo.config))
    code, said = drill.run()
    assert code == 3, said
    assert "false: it ended with 1" in drill.report()["why"]
    assert mark.exists()


def test_regions_that_are_not_well_are_left_alone(pair: Pair, tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    plan = f'kind = "disk_full"\ntarget = "tokyo"\n[fault]\ninject = ["touch", "{mark}"]\n'
    arguments = ["--region", pair.paris.url, "--region", "tokyo=http://127.0.0.1:1"]
    code, said = Drill(tmp_path / "drill", plan, *arguments).run()
    assert code == 1
    assert "tokyo does not answer" in said
    code, said = Drill(tmp_path / "drill", plan.replace("tokyo", "lima"), str(pair.tokyo.config)).run()
    assert code == 2
    assert "there is no region lima" in said
    code, said = Drill(tmp_path / "drill", plan, str(pair.tokyo.config), "--check").run()
    assert code == 0
    assert f'would run:  ["touch", "{mark}"]' in said
    assert not mark.exists()


def test_a_switchover_needs_regions_that_take_orders(pair: Pair, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", 'kind = "switchover"\ntarget = "tokyo"\n' + QUICK, str(pair.tokyo.config))
    code, said = drill.run()
    assert code == 3, said
    assert "the region takes no orders" in drill.report()["why"]
