"""Shipped drills on a PostgreSQL cluster as an operator runs them: canaries are an application's, with its role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from replicator.ops.drills.report.form import DrillReport
from tests.e2e.cluster import NAMES
from tests.e2e.postgres_cluster import APP, PostgresCluster, postgres_cluster
from tests.etcd import Etcd
from tests.ops.drills import phases
from tests.ops.drills.deployment import Drill

PLANS = Path(__file__).parents[2] / "config" / "drills"
PATIENT = {"rto": '"30s"', "max_blocked": '"30s"'}  # the machine may be busy with other tests


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, etcd: Etcd) -> Iterator[PostgresCluster]:
    """As shipped: a commit is answered when one other region has it."""
    with postgres_cluster(tmp_path_factory.mktemp("drill"), etcd, acknowledge=1, linked=False) as deployment:
        yield deployment


def shipped(name: str, three: PostgresCluster | None, **changed: str) -> str:
    """A plan as it is shipped, with the databases to write to, and some values changed."""
    lines = (PLANS / f"{name}.toml").read_text().splitlines()
    for key, value in changed.items():
        places = [place for place, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert len(places) == 1, f"{name}.toml has {len(places)} lines of {key}"
        lines[places[0]] = f"{key} = {value}"
    if three is not None:
        dsns = ", ".join(f'{region} = "{server.dsn("ledger", APP)}"' for region, server in three.servers.items())
        if "[canary]" not in lines:
            lines.append("[canary]")
        lines.insert(lines.index("[canary]") + 1, f"dsn = {{ {dsns} }}")
    return "\n".join(lines) + "\n"


def read(drill: Drill) -> DrillReport:
    """The report that a drill wrote."""
    return DrillReport.model_validate_json((drill.report_dir / "report.json").read_text())


def check_all_well(three: PostgresCluster, drill: Drill, report: DrillReport) -> None:
    """Every canary was written, found everywhere and taken out again; all is as it was."""
    assert report.outcome == "passed"
    assert report.rpo_blocks == 0
    assert report.canaries is not None
    assert report.canaries.acknowledged == report.canaries.written > 20
    assert {region.region: region.missing_blocks for region in report.regions} == dict.fromkeys(NAMES, 0)
    assert sorted(region.compared for region in report.regions) == ["equal", "equal", "reference"]
    assert drill.left() == []
    assert three.settled().name == "paris"
    for name in NAMES:
        with psycopg.connect(three.dsns[name]) as session:
            assert session.execute("SELECT count(*) FROM replicator_canary").fetchone() == (0,), name


def test_the_shipped_switchover_there_and_back(three: PostgresCluster, tmp_path: Path) -> None:
    drill = Drill(
        tmp_path / "drill", shipped("switchover", three, duration='"1s"', **PATIENT), str(three["lima"].config)
    )
    with phases.crowding() as crowded:
        code, said = drill.run()
    assert code == 0, said + three.story()
    report = read(drill)
    assert [(change.old, change.new) for change in report.changes] == [("paris", "tokyo"), ("tokyo", "paris")]
    check_all_well(three, drill, report)
    phases.compare(report, three["lima"].config, drill.plan, crowded)


def test_the_shipped_canary(three: PostgresCluster, tmp_path: Path) -> None:
    plan = shipped("canary", three, duration='"2s"', max_blocked='"30s"')
    drill = Drill(tmp_path / "drill", plan, str(three["lima"].config))
    code, said = drill.run()
    assert code == 0, said + three.story()
    check_all_well(three, drill, read(drill))


def test_the_shipped_rehearsal(three: PostgresCluster, tmp_path: Path) -> None:
    """On the standby's own server, where a commit of another database would wait for a region that follows it."""
    plan = shipped("rehearsal", None, rto='"30s"')
    drill = Drill(tmp_path / "drill", plan, str(three["tokyo"].config))
    code, said = drill.run()
    assert code == 0, said + three.story()
    report = read(drill)
    assert report.canaries is not None
    assert (report.canaries.acknowledged, report.rpo_blocks, report.outcome) == (100, 0, "passed")
    assert drill.left() == []


def test_a_plan_that_names_no_database_is_refused_with_what_it_needs(three: PostgresCluster, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", shipped("switchover", None), str(three["lima"].config))
    code, said = drill.run()
    assert code == 2, said
    assert "this region's ledger is a database of its own" in said
    assert "name the database of every region in the plan: [canary] dsn" in said
    assert drill.left() == []
