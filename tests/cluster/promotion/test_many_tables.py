"""More tables than the server's lock table holds at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.errors import Unavailable
from replicator.pipeline.replicas.postgres import PostgresReplica
from replicator.pipeline.sources.postgres import initial
from tests.cluster.promotion.world import Region, ship
from tests.servers import Postgres

TABLES = 800


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[Postgres]:
    settings = {"max_locks_per_transaction": "10", "max_connections": "15", "max_wal_senders": "3"}
    server = Postgres(tmp_path / "small", settings | {"max_worker_processes": "2", "shared_buffers": "16MB"})
    server.create()
    server.start()
    yield server
    server.stop()


def test_a_first_copy_of_more_tables_than_locks(
    small_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in groups at the source, made in groups at the replica; a server that is too small for it is named."""
    paris, lima = (Region(tmp_path, small_server.create_database(name)) for name in ("paris", "lima"))
    make = "CREATE TABLE t%s (id serial PRIMARY KEY, what text); INSERT INTO t%s (what) VALUES (''x'')"
    for first in range(0, TABLES, 50):
        numbers = f"SELECT format('{make}', i, i) AS text FROM generate_series({first + 1}, {first + 50}) i"
        paris.do(f"DO $$ DECLARE m record; BEGIN FOR m IN {numbers} LOOP EXECUTE m.text; END LOOP; END $$")
    with monkeypatch.context() as all_at_once:
        all_at_once.setattr(initial, "grouped", lambda tables, locks, most: [tables])
        with pytest.raises(Unavailable, match="lock_table_full") as caught:
            paris.capture()
        assert "max_locks_per_transaction" in caught.value.cure
    paris.capture()
    ship(paris, lima)
    with monkeypatch.context() as all_at_once:
        all_at_once.setattr(PostgresReplica, "divide", lambda replica: None)
        with pytest.raises(Unavailable, match="replica_lock_table_full"):
            lima.replay()
    assert lima.ask("SELECT to_regclass('t1')") == [(None,)]
    with monkeypatch.context() as killed:
        killed.setattr(PostgresReplica, "begin", begin_twice(PostgresReplica.begin))
        with pytest.raises(ZeroDivisionError):
            lima.replay()
    assert lima.ask("SELECT FROM replicator.position") == []
    assert 0 < len(lima.ask("SELECT FROM pg_tables WHERE tablename ~ '^t[0-9]'")) <= TABLES
    lima.replay()
    counted = "SELECT count(*) FROM (" + " UNION ALL ".join(f"SELECT FROM t{n}" for n in range(1, 51)) + ") AS every"
    assert lima.ask(counted) == [(50,)]
    assert lima.rows(f"t{TABLES}") == [(1, "x")]
    assert lima.ask("SELECT count(*) FROM replicator.sequence") == [(TABLES,)]
    for region in (paris, lima):
        region.close()


def begin_twice(begin: Callable[[PostgresReplica], None]) -> Callable[[PostgresReplica], None]:
    """Dies at the third transaction: after two that were committed without a position."""
    begun: list[int] = []

    def count(replica: PostgresReplica) -> None:
        begun.append(1 // (3 - len(begun)))
        begin(replica)

    return count
