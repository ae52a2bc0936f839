"""The servers that the tests stand on: they start, die and come back with what was committed."""

from pathlib import Path

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
