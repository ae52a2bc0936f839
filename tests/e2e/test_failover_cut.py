"""A primary is cut off from everybody, peers and lease store: in both directions, and in each direction alone."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.cluster import NAMES, Cluster, cluster, lost_of
from tests.e2e.writers import Writer, all_acknowledged, check_one_at_a_time, writing
from tests.etcd import Etcd

DIRECTIONS = {
    "both ways": {"out": True, "into": True},
    "it is not heard": {"out": True, "into": False},
    "it hears nothing": {"out": False, "into": True},
}


def test_a_primary_that_is_cut_off_never_writes_beside_its_successor(tmp_path: Path, etcd: Etcd) -> None:
    """K = 0, clients on every side that never look elsewhere: one region at a time acknowledges; when the lines are
    healed all regions are equal, and what was acknowledged and is nowhere was sealed."""
    with cluster(tmp_path, etcd) as three:
        writers = [writer for name in NAMES for writer in three.writers(2, only=name)]
        with writing(writers):
            three.wait(lambda: of(writers, "paris") >= 20, "a load")
            for what, directions in DIRECTIONS.items():
                cut_off(three, writers, what, directions)
        acknowledged = all_acknowledged(writers)
        check_one_at_a_time(acknowledged)
        leader = three.judge(acknowledged, lost=True)
        lost = {one.id for one in lost_of(acknowledged, leader.headers())}
        sealed = {
            t["transaction"] for region in three.regions.values() for s in region.seals() for t in s["transactions"]
        }
        assert lost <= sealed, f"lost without a word: {sorted(lost - sealed)[:5]}\n{three.story()}"


def cut_off(three: Cluster, writers: list[Writer], what: str, directions: dict[str, bool]) -> None:
    """Cut the present primary off until another one leads and is written to; heal; wait until all follow it."""
    old = three.leads(*NAMES)
    three.network.isolate(old.name, **directions)
    new = three.leads(*(name for name in NAMES if name != old.name))
    before = of(writers, new.name)
    three.wait(lambda: of(writers, new.name) >= before + 20, f"{what}: {new.name} is written to")
    assert old.report()["open"] is False, f"{what}: two regions are open\n{three.story()}"
    three.network.heal()
    three.wait(lambda: old.report().get("state") == "following", f"{what}: {old.name} comes back")


def of(writers: list[Writer], region: str) -> int:
    return sum(one.region == region for one in all_acknowledged(writers))
