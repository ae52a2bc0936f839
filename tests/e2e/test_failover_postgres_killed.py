"""A whole PostgreSQL region dies under load, its sidecar and its server, while commits wait for another region."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.postgres_cluster import postgres_cluster
from tests.e2e.writers import all_acknowledged, writing
from tests.etcd import Etcd


def test_a_killed_region_loses_no_acknowledged_payment(tmp_path: Path, etcd: Etcd) -> None:
    """K = 1. Another region leads, no payment that was acknowledged is lost, none is made twice; the server comes back
    with what it had committed for nobody, which is sealed and undone."""
    with postgres_cluster(tmp_path, etcd, acknowledge=1) as three:
        paris = three["paris"]
        writers = three.writers(4)
        with writing(writers):
            three.more(writers)
            three.network.part("paris", "tokyo", "lima")
            others = (three["tokyo"], three["lima"])  # not where paris was: its writers may all be waiting by now
            three.wait(
                lambda: paris.report()["sequence"] >= max(region.report()["sequence"] for region in others) + 2,
                "commits that only paris has",
            )
            paris.kill()
            three.servers["paris"].kill()
            leader = three.leads("tokyo", "lima")
            three.network.heal()  # what was on its way arrives now: too late
            three.more(writers)
            three.servers["paris"].start()
            paris.start()
            three.wait(lambda: paris.report().get("state") == "following", "it comes back")
            three.more(writers)
        assert three.judge(all_acknowledged(writers)) is leader
        assert sum(seal["blocks"] for seal in paris.seals()) >= 2
