"""A PostgreSQL region is lost; another one's database is promoted, the others follow it without a copy, and the lost
one comes back as a replica of it, without a copy either. Real servers, real sidecars, pgbench.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trio

from replicator.journal.store import Journal
from replicator.journal.tail import Tail
from replicator.promotion import PostgresRole
from replicator.sources.postgres import PostgresOptions
from tests.e2e.deployment import Deployment
from tests.e2e.sidecars import Sidecar, postgres_rows, sequence, sqlite_rows

STRAND = "main"
PGBENCH = {
    "pgbench_accounts": ["aid", "bid", "abalance", "filler"],
    "pgbench_branches": ["bid", "bbalance", "filler"],
    "pgbench_tellers": ["tid", "bid", "tbalance", "filler"],
    "pgbench_history": ["tid", "bid", "aid", "delta", "mtime", "filler"],
}
OURS = {
    "payments": ["id", "user_id", "amount", "note"],
    "receipts": ["id", "payment", "text"],
    "countdown": ["id", "what"],
}
SCHEMA = """
CREATE TABLE payments (id serial PRIMARY KEY, gone text, user_id text NOT NULL, amount numeric(12,2) NOT NULL CHECK (amount > 0));
CREATE TABLE receipts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payment int REFERENCES payments, text text);
CREATE SEQUENCE down INCREMENT -5 START -5 MAXVALUE -1 MINVALUE -100000000;
CREATE TABLE countdown (id bigint PRIMARY KEY DEFAULT nextval('down'), what text);
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.text := upper(NEW.text); RETURN NEW; END $$;
CREATE TRIGGER loud BEFORE INSERT OR UPDATE ON receipts FOR EACH ROW EXECUTE FUNCTION shout();
"""  # noqa: E501
WRITES = """
WITH paid AS (INSERT INTO payments (user_id, amount) VALUES ('ada', 12.5), ('bob', 3) RETURNING id)
INSERT INTO receipts (payment, text) SELECT id, 'thanks' FROM paid;
INSERT INTO countdown (what) SELECT 'tick' FROM generate_series(1, 3);
"""


class Failover(Deployment):
    """Paris is the primary; Lima's database is to be promoted, Tokyo follows whoever leads."""

    def role(self, sidecar: Sidecar, dsn: str) -> tuple[Journal, PostgresRole]:
        journal = Journal(sidecar.directory / "data" / "journal.sqlite3")
        journal.open()
        return journal, PostgresRole(dsn, journal, STRAND, PostgresOptions(dsn, sequence_seconds=1.0))

    def configure(self, sidecar: Sidecar, role: str, sections: str, epoch: int = 1) -> None:
        sidecar.config.write_text(
            f'[region]\nname = "{sidecar.name}"\nrole = "{role}"\ndata_dir = "data"\nepoch = {epoch}\n\n'
            f'[http]\nlisten = "127.0.0.1:{sidecar.port}"\n\n{sections}'
        )


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Failover]:
    deployment = Failover(tmp_path)
    yield deployment
    deployment.end()


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def pgbench(running: subprocess.Popen[bytes]) -> None:
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output.decode()


def reach_head(leader: Sidecar, server_dsn: str, *replicas: Sidecar) -> None:
    """Until the leader has all of its log, and these have applied it."""
    run(server_dsn, "SELECT pg_logical_emit_message(true, 'end', 'one more block')")
    with psycopg.connect(server_dsn) as connection:
        (end,) = connection.execute("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn").fetchone() or (0,)

    def stored(status: dict[str, object]) -> bool:
        high, low = str(status["source"]["stored"] or "0/0").split("/")  # type: ignore[index]
        return (int(high, 16) << 32 | int(low, 16)) >= int(end)

    leader.reach(stored, "the log's end")
    status = leader.status()
    assert status is not None
    head = sequence(status, "settled")
    for replica in replicas:
        replica.reach(lambda status: sequence(status, "applied") >= head, f"sequence {head}")


def test_failover_and_back(deployment: Failover) -> None:
    """The whole way: Paris leads, is killed; Lima leads in epoch 2; Tokyo goes on; Paris comes back as its replica."""
    paris, lima, tokyo = deployment.sidecars
    run(deployment.primary_dsn, SCHEMA)
    pgbench(deployment.pgbench("-i", "-q", "-s", "2"))
    for sidecar in deployment.sidecars:
        sidecar.start()
    pgbench(deployment.pgbench("-c", "4", "-T", "3"))
    run(deployment.primary_dsn, WRITES, "ALTER TABLE payments DROP COLUMN gone", "ALTER TABLE payments ADD note text")
    run(deployment.primary_dsn, WRITES, "UPDATE payments SET note = 'seen' WHERE id = 1")
    reach_head(paris, deployment.primary_dsn, lima, tokyo)

    paris.kill()
    deployment.primary_server.kill()
    assert lima.stop() == 0
    journal, role = deployment.role(lima, deployment.replica_dsn)
    fork = journal.head(STRAND)
    head = role.promote(2)
    assert (head.epoch, head.sequence) == (2, fork.sequence + 1)
    assert role.promote(2) == head, "promoted twice"
    relations = journal.definitions(STRAND)
    journal.close()

    run(deployment.replica_dsn, WRITES)  # before the source has even been started
    deployment.configure(lima, "primary", f'[source]\nkind = "postgres"\ndsn = "{deployment.replica_dsn}"\n', 2)
    follow = f'[follow]\nprimary = "{lima.url}"\nreconnect_max = "1s"\n\n'
    assert tokyo.stop() == 0
    deployment.configure(tokyo, "replica", f'{follow}[replica]\nkind = "sqlite"\npath = "ledger.db"\n')
    lima.start()
    tokyo.start()
    run(deployment.replica_dsn, WRITES, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 1000 = 0")
    run(deployment.replica_dsn, "INSERT INTO pgbench_history SELECT tid, 1, 1, 7, '2026-01-01' FROM pgbench_tellers")
    reach_head(lima, deployment.replica_dsn, tokyo)
    for table, columns in {**PGBENCH, **OURS}.items():
        rows = list(postgres_rows(deployment.replica_dsn, table, columns))
        assert rows == list(sqlite_rows(deployment.sqlite_path, table, columns)), table
    ids = [int(row[0] or 0) for row in postgres_rows(deployment.replica_dsn, "payments", ["id"])]
    assert len(ids) == len(set(ids)) == 8
    assert sorted(ids)[4] > 1000, "numbers that the old primary may have handed out are left out"

    deployment.primary_server.start()
    journal, role = deployment.role(paris, deployment.primary_dsn)
    trio.run(role.capture_rest, Tail(journal.head(STRAND)), 30.0)
    assert journal.head(STRAND) == fork, "in this test nothing was left uncaptured"
    role.adopt(fork)
    role.adopt(fork)
    journal.close()
    follow = f'[follow]\nprimary = "{lima.url}"\nreconnect_max = "1s"\n\n'
    deployment.configure(paris, "replica", f'{follow}[replica]\nkind = "postgres"\ndsn = "{deployment.primary_dsn}"\n')
    paris.start()
    run(deployment.replica_dsn, WRITES)
    reach_head(lima, deployment.replica_dsn, paris, tokyo)
    for table, columns in {**PGBENCH, **OURS}.items():
        rows = list(postgres_rows(deployment.replica_dsn, table, columns))
        assert rows == list(postgres_rows(deployment.primary_dsn, table, columns)), table

    lima_journal = Journal(lima.directory / "data" / "journal.sqlite3")
    lima_journal.open()
    now = lima_journal.definitions(STRAND)
    lima_journal.close()
    assert {relation: now[relation] for relation in relations} == relations
