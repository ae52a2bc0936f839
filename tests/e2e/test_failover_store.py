"""The lease store is lost: nobody is promoted, the primary fences itself in time, and goes on when the store does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import trio

from replicator.cluster.leases.etcd.lease import EtcdLease
from replicator.cluster.leases.etcd.options import EtcdOptions
from tests.e2e.cluster import TTL_SECONDS, Cluster, cluster, embedded
from tests.e2e.writers import Writer, all_acknowledged, check_one_at_a_time, writing
from tests.etcd import Etcd, running

STANDS = {"stand", "suspect"}


def test_the_lease_store_is_lost_and_comes_back(tmp_path: Path) -> None:
    """etcd is killed, and stopped so that its connections stay: each time paris stops to write before its lease can
    have ended, nobody stands in its place, and it leads again by itself."""
    with running(Etcd(tmp_path / "etcd")) as etcd, cluster(tmp_path, etcd, acknowledge=1) as three:
        writers = three.writers(4)
        with writing(writers):
            lose(three, writers, etcd.kill, etcd.start)
            lose(three, writers, etcd.freeze, etcd.thaw)
        acknowledged = all_acknowledged(writers)
        check_one_at_a_time(acknowledged)
        assert {one.region for one in acknowledged} == {"paris"}
        assert three.judge(acknowledged).name == "paris"
        for name in ("tokyo", "lima"):
            assert not STANDS & set(three[name].happened()), three.story()


def test_the_lease_of_another_cluster_is_nobody_to_follow(tmp_path: Path, etcd: Etcd) -> None:
    """A prefix of another cluster: whoever holds its lease is named as a stranger, neither followed nor replaced."""
    three = Cluster(tmp_path, etcd, embedded)
    with contextlib.closing(three):
        berlin = EtcdLease(EtcdOptions((etcd.url,), 60, three.prefix), "main")
        trio.run(berlin.claim, "berlin", 7)
        tokyo = three["tokyo"]
        tokyo.start()
        three.wait(lambda: "'berlin' is not in the cluster" in (tokyo.office() or {}).get("why", ""), "it says so")
        assert tokyo.report()["state"] == "following"
        assert not STANDS & set(tokyo.happened())


def lose(three: Cluster, writers: list[Writer], away: Callable[[], None], back: Callable[[], None]) -> None:
    """Lose the store under load for longer than the lease lasts, and give it back."""
    three.more(writers, 15)
    lost_at = time.monotonic()
    away()
    three.wait(lambda: three["paris"].report().get("open") is False, "paris has closed")
    assert time.monotonic() < lost_at + TTL_SECONDS + 2, "it went on with a lease that it could not renew"
    three.wait(lambda: time.monotonic() > lost_at + 2 * TTL_SECONDS, "the lease would have ended long ago")
    assert three.primary() is None
    last = all_acknowledged(writers)[-1]
    assert last.sent < lost_at + TTL_SECONDS, "written when the lease may have been another region's"
    back()
    assert three.leads("paris", "tokyo", "lima").name == "paris"
    three.more(writers, 15)
