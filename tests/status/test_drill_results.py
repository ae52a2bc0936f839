"""Results that regions keep: durable, bounded, and shown as metrics, in the status and on the page."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from replicator.errors import Rejected
from replicator.status import drill_results
from replicator.status.drill_results import KEPT, DrillResults, kept, routes
from replicator.status.json import status_json
from replicator.status.metrics import Metrics
from replicator.status.model import DrillView, Snapshot
from replicator.status.page import page
from replicator.storage.data_dir import DataDir
from tests.ledger.region import served
from tests.status import samples

DAY_US = 86_400_000_000


def fields(number: int = 1, kind: str = "switchover", outcome: str = "passed", **more: Any) -> dict[str, Any]:
    found = {"id": f"d-{number}", "kind": kind, "name": "weekly", "outcome": outcome, "seconds": 9.5, "who": "ann@desk"}
    return {**found, **more}


class Clock:
    def __init__(self) -> None:
        self.now = 1_790_000_000_000_000

    def __call__(self) -> int:
        return self.now


def test_results_survive_a_restart_and_grow_old(tmp_path: Path) -> None:
    clock = Clock()
    DrillResults(DataDir(tmp_path), clock).add(fields(rto_seconds=0.4))
    clock.now += DAY_US
    (view,) = DrillResults(DataDir(tmp_path), clock).views()
    assert view == DrillView("switchover", "weekly", "passed", 86_400.0, 0.4)


def test_the_same_drill_told_twice_is_kept_once(tmp_path: Path) -> None:
    results = DrillResults(DataDir(tmp_path))
    assert results.add(fields()) == results.add(fields(outcome="missed"))
    assert len(results.all()) == 1


def test_the_last_ones_are_kept_and_the_last_of_each_kind(tmp_path: Path) -> None:
    results = DrillResults(DataDir(tmp_path))
    results.add(fields(0, "rehearsal"))
    for number in range(1, KEPT + 20):
        results.add(fields(number))
    found = results.all()
    assert len(found) == KEPT + 1
    assert found[0].id == f"d-{KEPT + 19}"
    assert found[-1].kind == "rehearsal"
    assert kept(found[::-1]) == found[::-1]


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "drills.json").write_text('{"results": [{"id":')
    results = DrillResults(DataDir(tmp_path))
    assert results.all() == []
    assert len(list(tmp_path.glob("drills.json.damaged-*"))) == 1
    results.add(fields())
    assert len(DrillResults(DataDir(tmp_path)).all()) == 1


def test_what_is_kept_is_shown_while_a_result_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = DrillResults(DataDir(tmp_path))
    results.add(fields(1))
    shown: list[str] = []

    def show(path: Path, data: object) -> None:
        reader = threading.Thread(target=lambda: shown.extend(view.name for view in results.views()), daemon=True)
        reader.start()
        reader.join(5)

    monkeypatch.setattr(drill_results, "replace_file", show)
    results.add(fields(2))
    assert shown == [fields(1)["name"]], "a scrape waited for the disk"


@pytest.mark.parametrize("wrong", [{"kind": "party"}, {"outcome": "fine"}, {"id": "../x"}])
def test_what_is_no_result_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(Rejected):
        DrillResults(DataDir(tmp_path)).add({**fields(), **wrong})
    assert not (tmp_path / "drills.json").exists()


async def test_over_http(tmp_path: Path) -> None:
    async with served(routes(DrillResults(DataDir(tmp_path)))) as client:
        answer = await client.post("/v1/drills", json=fields(7, rpo_blocks=2.0))
        assert answer.status_code == 200, answer.text
        (found,) = (await client.get("/v1/drills")).json()["drills"]
        assert (found["id"], found["outcome"], found["rpo_blocks"], found["rto_seconds"]) == ("d-7", "passed", 2, None)
        assert (await client.post("/v1/drills", json={"id": "x"})).status_code == 422
        assert (await client.post("/v1/drills", json=fields(kind="x"))).status_code == 422


def shown() -> Snapshot:
    drills = (DrillView("region_loss", "<b>", "missed", 7200.0, 12.5, 3.0), DrillView("canary", "c", "passed", 60.0))
    return dataclasses.replace(samples.primary(), drills=drills)


def test_age_and_result_are_metrics() -> None:
    registry = CollectorRegistry()

    class Fixed:
        def snapshot(self) -> Snapshot:
            return shown()

    Metrics(registry, Fixed())
    text = generate_latest(registry).decode()
    assert 'replicator_drill_age_seconds{kind="region_loss",region="paris"} 7200.0' in text
    assert 'replicator_drill_passed{kind="region_loss",region="paris"} 0.0' in text
    assert 'replicator_drill_passed{kind="canary",region="paris"} 1.0' in text


def test_status_and_page_show_them() -> None:
    drills = status_json(shown())["drills"]
    assert [(drill["kind"], drill["outcome"]) for drill in drills] == [("region_loss", "missed"), ("canary", "passed")]
    html = page(shown())
    assert "&lt;b&gt;" in html
    assert "region loss" in html
    assert "12.5 s" in html
