"""A primary that lives and cannot serve writes, its database gone or its line to the lease store: another one leads.

Its sidecar answers all along, and its feed goes on with heartbeats: that alone is no sign of a primary.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.cluster import ETCD, TTL_SECONDS
from tests.e2e.postgres_cluster import APP, PostgresCluster, postgres_cluster, terms
from tests.e2e.writers import Writer, all_acknowledged, writing
from tests.etcd import Etcd

QUIET_SECONDS = 1.0  # of the cluster
BOUND_SECONDS = 20.0  # beside lease and quiet: promises, draining and promotion, on a machine that is busy


def test_a_primary_that_cannot_serve_writes_is_replaced(tmp_path: Path, etcd: Etcd) -> None:
    """Its server is killed and stays away, its server is frozen, only its line to etcd is cut: each time another region
    leads, nothing that was acknowledged is lost, and the old one takes no writes and comes back as a replica."""
    with postgres_cluster(tmp_path, etcd, acknowledge=1) as three:
        writers = three.writers(2)
        with writing(writers):
            for unable, able in (server_killed, server_frozen, lease_store_cut):
                replaced(three, writers, unable, able)
        acknowledged = all_acknowledged(writers)
        assert len(terms(acknowledged)) == 4
        three.judge(acknowledged)


def replaced(
    three: PostgresCluster,
    writers: list[Writer],
    unable: Callable[[PostgresCluster, str], None],
    able: Callable[[PostgresCluster, str], None],
) -> None:
    """One primary after another that goes on living, unable to write."""
    three.more(writers)
    old = three.settled()
    assert old.process is not None
    pid = old.process.pid
    began = time.monotonic()
    unable(three, old.name)
    new = three.leads(*(name for name in three.regions if name != old.name))
    seconds = time.monotonic() - began
    assert seconds < TTL_SECONDS + QUIET_SECONDS + BOUND_SECONDS, f"{seconds:.1f} s\n{three.story()}"
    if unable is not freeze_server:  # whose clients hang with it
        three.more(writers)
    assert old.process.pid == pid
    assert old.process.poll() is None, "its sidecar was to live"
    assert not old.report()["open"]
    # It cannot know what is written elsewhere by now.
    three.wait(lambda: old.ask("GET", "/replica?lag=1s")[0] == 503, "it does not call itself current")
    able(three, old.name)
    three.more(writers)
    assert three.is_refused(old.name, APP)
    assert three.settled() is new
    assert old.report()["state"] == "following"


def kill_server(three: PostgresCluster, name: str) -> None:
    three.servers[name].kill()


def start_server(three: PostgresCluster, name: str) -> None:
    three.servers[name].start()


def freeze_server(three: PostgresCluster, name: str) -> None:
    _signal(three, name, signal.SIGSTOP)


def thaw_server(three: PostgresCluster, name: str) -> None:
    _signal(three, name, signal.SIGCONT)


def _signal(three: PostgresCluster, name: str, number: signal.Signals) -> None:
    """To the server's processes; those of the sessions that are there."""
    process = three.servers[name].process
    assert process is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, number)


def cut_lease_store(three: PostgresCluster, name: str) -> None:
    three.network.part(name, ETCD)


def mend_lease_store(three: PostgresCluster, name: str) -> None:
    three.network.heal()


server_killed = (kill_server, start_server)
server_frozen = (freeze_server, thaw_server)
lease_store_cut = (cut_lease_store, mend_lease_store)
