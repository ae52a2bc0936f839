"""Planned switchovers of embedded regions under load: nothing is lost or undone, and a target that cannot follow is
waited for no longer than was allowed."""

from __future__ import annotations

import time
from pathlib import Path

from tests.e2e.cluster import cluster
from tests.e2e.region import Region
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


def test_a_primary_that_is_told_to_stop_hands_over(tmp_path: Path, etcd: Etcd) -> None:
    """SIGTERM: another region leads long before the lease would have ended, and nothing is an orphan. With nobody to
    hand over to, the lease is given back at once, and is there for whoever may lead."""
    with cluster(tmp_path, etcd) as three:
        paris, tokyo, lima = (three[name] for name in ("paris", "tokyo", "lima"))
        writers = three.writers(4)
        with writing(writers):
            three.more(writers)
            began = time.monotonic()
            assert stopped(paris) == 0
            new = three.leads("tokyo", "lima")
            print(f"another region leads after {time.monotonic() - began:.2f} s")
            assert "take" in whys(new, "stand")[-1], three.story()  # not after the lease's end
            three.more(writers)
            assert new.happened()[-1] == "promoted"
            paris.start()
            three.wait(lambda: paris.report().get("state") == "following", "it comes back")
            other = lima if new is tokyo else tokyo
            three.wait(lambda: all([paused(paris), paused(other)]), "both are paused")
            three.wait(lambda: _blocked_by(new) == {paris.name, other.name}, "the primary knows")
            status, refusal = new.order(verb="switchover", target=other.name)
            assert (status, refusal["reason"]) == (409, "target_not_ready"), refusal
            assert (
                refusal["message"]
                == f"{other.name} cannot be promoted: paused by an operator: replicator resume CONFIG"
            )
            assert "hand_over" not in new.happened(), "it has closed for nothing"
            assert stopped(new) == 0
            assert "the lease is given back" in new.log()
            three.wait(lambda: (other.office() or {})["lease"]["holder"] is None, "nobody holds the lease")
            assert other.order(verb="resume")[0] == 202
            assert three.leads(other.name)
            three.more(writers)
            new.start()
        acknowledged = all_acknowledged(writers)
        check_one_at_a_time(acknowledged)
        assert paris.order(verb="resume")[0] == 202
        assert three.judge(acknowledged) is other
        assert not any(region.seals() for region in three.regions.values())


def stopped(region: Region) -> int:
    """SIGTERM; the exit code. Nobody calls it a sidecar that ended by itself."""
    assert region.process is not None
    process, region.process = region.process, None
    process.terminate()
    return process.wait(30)


def paused(region: Region) -> bool:
    """Whether it is paused; if not it is ordered, for one that comes back may have a step to take before."""
    region.order(verb="pause")
    return region.report().get("state") == "paused"


def whys(region: Region, event: str) -> list[str]:
    """Why it has come to such an event, each time."""
    return [past["why"] for past in (region.office() or {})["history"] if past["event"] == event]


def _blocked_by(primary: Region) -> set[str]:
    """The regions of which a primary knows that they cannot be promoted."""
    return {name for name, peer in (primary.office() or {})["peers"].items() if peer["report"]["blocked"]}
