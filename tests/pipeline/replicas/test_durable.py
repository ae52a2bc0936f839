"""What may be pruned because a replica has it on disk: never more than survives a loss of power."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psycopg
import pytest

from replicator.pipeline.replicas.base import Define, TableChange
from replicator.pipeline.replicas.postgres import PostgresReplica
from replicator.pipeline.replicas.postgres.durable import PostgresDurable
from replicator.pipeline.replicas.sqlite import SqliteReplica
from replicator.pipeline.replicas.sqlite.durable import SqliteDurable
from tests.contracts.replica_kinds import STRAND, apply, row, table
from tests.servers import Postgres

WALLETS = table([("id", "text")], ["id"])


def test_a_sqlite_replica_is_durable_once_its_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "replica.db"
    durable = SqliteDurable(path, STRAND)
    assert durable.sequence() == 0
    assert not path.exists(), "looking makes no file"
    replica = SqliteReplica(path)
    replica.open()
    apply(replica, 3, Define(1, WALLETS))
    synced: list[str] = []
    fsync = os.fsync

    def spy(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", spy)
    assert durable.sequence() == 3
    assert synced == [f"{path}-wal"]
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(5, "the disk fails")))
    assert durable.sequence() == 0, "nothing is known then"
    replica.close()


def test_a_postgres_replica_that_crashes_still_has_what_was_called_durable(tmp_path: Path) -> None:
    """Its log writer sleeps for long, so that commits stay in memory until something else flushes them."""
    server = Postgres(tmp_path / "server", {"wal_writer_delay": "10s"})
    server.create()
    server.start()
    try:
        dsn = server.create_database("replica")
        replica = PostgresReplica(dsn)
        durable = PostgresDurable(dsn, STRAND)
        assert durable.sequence() == 0
        replica.open()
        apply(replica, 1, Define(1, WALLETS))
        told = 0
        for sequence in range(2, 60):
            apply(replica, sequence, TableChange(WALLETS, (), (), (), [row(f"w{sequence}")], ()))
            told = durable.sequence()
            assert told <= sequence
        with psycopg.connect(dsn, autocommit=True) as other:  # a commit that does wait takes the log before it along
            other.execute("CREATE TABLE public.other ()")
        deadline = time.monotonic() + 20
        while (told := durable.sequence()) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)  # polls a server
        server.kill()
        replica.close()
        server.start()
        assert durable.sequence() >= told, "what was known stays known while the server comes back"
        replica.open()
        stands = replica.applied(STRAND)
        replica.close()
        assert stands is not None
        assert stands.position.sequence >= told
    finally:
        server.stop()


def test_a_postgres_that_does_not_answer_is_no_error() -> None:
    durable = PostgresDurable("host=127.0.0.1 port=1 dbname=none connect_timeout=1", STRAND)
    assert durable.sequence() == 0
