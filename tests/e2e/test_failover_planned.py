"""Planned switchovers of embedded regions under load: nothing is lost or undone, and a target that cannot follow is
waited for no longer than was allowed."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.cluster import Cluster, cluster
from tests.e2e.writers import Writer, all_acknowledged, check_one_at_a_time, longest_gap, writing
from tests.etcd import Etcd


def test_a_switchover_round_the_regions_and_back(tmp_path: Path, etcd: Etcd) -> None:
    """Every region leads once, without a copy and without an orphan; one acknowledgement is enough to lose nothing."""
    with cluster(tmp_path, etcd) as three:
        writers = three.writers(4)
        with writing(writers):
            more(three, writers)
            for target in ("tokyo", "lima", "paris"):
                assert switch_over(three, target) == 202
                three.leads(target)
                more(three, writers)
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
            more(three, writers)
            three.network.part("tokyo", "paris")
            assert switch_over(three, "tokyo", seconds=2.0) == 202
            three.wait(lambda: "reopen" in three["paris"].happened(), "it is called off")
            assert three.leads("paris", "tokyo", "lima").name == "paris"
            more(three, writers)
            three.network.heal()
            three.wait(lambda: three["tokyo"].report().get("heard_seconds", 9) < 1, "tokyo hears it again")
            assert switch_over(three, "tokyo") == 202
            three.leads("tokyo")
            more(three, writers)
        acknowledged = all_acknowledged(writers)
        check_one_at_a_time(acknowledged)
        assert three.judge(acknowledged).name == "tokyo"
        assert not any(region.seals() for region in three.regions.values())


def switch_over(three: Cluster, target: str, seconds: float = 30.0) -> int:
    """Order it; what the present primary answers."""
    status, _ = three.leads(*three.regions).order(verb="switchover", target=target, seconds=seconds)
    return status


def more(three: Cluster, writers: list[Writer]) -> None:
    """Each of them goes on."""
    before = [len(writer.acknowledged) for writer in writers]
    three.wait(lambda: all(len(w.acknowledged) >= n + 20 for w, n in zip(writers, before, strict=True)), "writes go on")
