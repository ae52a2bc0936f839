"""Planned switchovers between PostgreSQL regions under an application's load."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.postgres_cluster import postgres_cluster, terms
from tests.e2e.writers import all_acknowledged, writing
from tests.etcd import Etcd


def test_a_switchover_and_back(tmp_path: Path, etcd: Etcd) -> None:
    """Sessions are ended and come back elsewhere: no acknowledged payment is lost or doubled, no number is handed out
    twice, and the third region follows without a copy."""
    with postgres_cluster(tmp_path, etcd) as three:
        writers = three.writers(4)
        with writing(writers):
            three.more(writers)
            for target in ("tokyo", "paris"):
                three.switch_over(target)
                three.leads(target)
                three.more(writers)
        acknowledged = all_acknowledged(writers)
        assert terms(acknowledged) == ["paris", "tokyo", "paris"]
        assert three.judge(acknowledged).name == "paris"
        assert not any(region.seals() for region in three.regions.values())
