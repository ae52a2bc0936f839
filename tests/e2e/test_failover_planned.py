"""Planned switchovers of embedded regions under load: nothing is lost or undone, and a target that cannot follow is
waited for no longer than was allowed."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.cluster import cluster
from tests.e2e.writers import all_acknowledged, check_one_at_a_time, longest_gap, writing
from tests.etcd import Etcd


def test_a_switchover_round_the_regions_and_back(tmp_path: Path, etcd: Etcd) -> None:
    """Every region leads once, without a copy and without an orphan, one line being slow. K = 0: nothing is lost when a
    primary hands over, whoever has acknowledged."""
    with cluster(tmp_path, etcd) as three:
        writers = three.writers(4)
        with writing(writers):
            three.network.slow("paris", "lima", 0.02)
            three.more(writers)
            for target in ("tokyo", "lima", "paris"):
                three.switch_over(target)
                three.leads(target)
                three.more(writers)
        acknowledged = all_acknowledged(writers)
        check_one_at_a_time(acknowledged)
        assert three.judge(acknowledged).name == "paris"
        assert not any(region.seals() for region in three.regions.values())
        assert longest_gap(acknowledged) < 10  # under a loaded test run; what it is otherwise, bench/failover.py says


def test_a_switchover_that_cannot_be_done_is_called_off(tmp_path: Path, etcd: Etcd) -> None:
    """The target is slow to hear; the primary closes, waits for no longer than it was told, and opens again."""
    with cluster(tmp_path, etcd) as three:
        writers = three.writers(4)
        with writing(writers):
            three.more(writers)
            three.network.part("tokyo", "paris")
            three.switch_over("tokyo", seconds=2.0)
            three.wait(lambda: "reopen" in three["paris"].happened(), "it is called off")
            assert three.leads("paris", "tokyo", "lima").name == "paris"
            three.more(writers)
            three.network.heal()
            three.wait(lambda: three["tokyo"].report().get("heard_seconds", 9) < 1, "tokyo hears it again")
            three.switch_over("tokyo")
            three.leads("tokyo")
            three.more(writers)
        acknowledged = all_acknowledged(writers)
        check_one_at_a_time(acknowledged)
        assert three.judge(acknowledged).name == "tokyo"
        assert not any(region.seals() for region in three.regions.values())
