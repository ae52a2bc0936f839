"""The servers that the tests stand on: they start, die and come back with what was committed."""

from pathlib import Path

from tests.etcd import Etcd, cluster, running
from tests.servers import Postgres


def test_a_killed_server_comes_back_with_what_was_committed(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "server")
    server.create()
    server.start()
    with server.connect() as connection:
        connection.execute("CREATE TABLE t (a int)")
        connection.execute("INSERT INTO t VALUES (1)")
    server.kill()
    server.start()
    with server.connect() as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
    server.stop()


def test_a_cluster_of_etcd_that_is_killed_comes_back_with_what_was_written(tmp_path: Path) -> None:
    with cluster(tmp_path) as members:
        members[0].ctl("put", "a", "1")
        for member in members:
            member.kill()
        for member in members:
            member.start(wait=False)
        for member in members:
            member.wait()
        assert members[1].ctl("get", "--print-value-only", "a") == "1\n"


def test_a_frozen_etcd_is_silent_and_goes_on(tmp_path: Path) -> None:
    with running(Etcd(tmp_path / "server")) as server:
        server.ctl("put", "a", "1")
        server.freeze()
        assert not server.is_well()
        server.thaw()
        assert server.ctl("get", "--print-value-only", "a") == "1\n"
