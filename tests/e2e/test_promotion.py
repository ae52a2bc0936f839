"""A PostgreSQL region is lost; another one's database is promoted, the others follow it without a copy, and the lost
one comes back as a replica of it, without a copy either. Real servers, real sidecars, pgbench.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from replicator.cluster.promotion import PostgresRole
from replicator.pipeline.sources.postgres import PostgresOptions
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal
from tests.e2e.deployment import Deployment
from tests.e2e.sidecars import Sidecar, postgres_rows, sequence, sqlite_rows
from tests.servers import postgres_bin

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

    def lead(self, sidecar: Sidecar, dsn: str, epoch: int) -> None:
        """From now on it is the primary."""
        source = f'[source]\nkind = "postgres"\ndsn = "{dsn}"\nsequences = "1s"\n'
        self._restart(sidecar, "primary", source, epoch)

    def follow(self, sidecar: Sidecar, leader: Sidecar, replica: str) -> None:
        """From now on it follows this one."""
        sections = f'[follow]\nprimary = "{leader.url}"\nreconnect_max = "1s"\n\n[replica]\n{replica}\n'
        self._restart(sidecar, "replica", sections, 1)

    def pgbench_on_replica(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [postgres_bin() / "pgbench", *arguments, "ledger"],
            env=self.replica_server.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _restart(self, sidecar: Sidecar, role: str, sections: str, epoch: int) -> None:
        if sidecar.process is not None and sidecar.process.poll() is None:
            sidecar.kill()
        sidecar.config.write_text(
            f'[region]\nname = "{sidecar.name}"\nrole = "{role}"\ndata_dir = "data"\nepoch = {epoch}\n\n'
            f'[http]\nlisten = "127.0.0.1:{sidecar.port}"\n\n{sections}'
        )
        sidecar.start("--new-identity")


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

    def stored(status: dict[str, Any]) -> bool:
        high, low = str(status["source"]["stored"] or "0/0").split("/")
        return (int(high, 16) << 32 | int(low, 16)) >= int(end)

    leader.reach(stored, "the log's end")
    status = leader.status()
    assert status is not None
    head = sequence(status, "settled")
    for replica in replicas:
        replica.reach(lambda status: sequence(status, "applied") >= head, f"sequence {head}")


def assert_equal(leader_dsn: str, deployment: Failover, *replica_dsns: str) -> None:
    """Row for row: Tokyo's SQLite, and these."""
    for table, columns in {**PGBENCH, **OURS}.items():
        rows = list(postgres_rows(leader_dsn, table, columns))
        assert rows == list(sqlite_rows(deployment.sqlite_path, table, columns)), table
        for dsn in replica_dsns:
            assert rows == list(postgres_rows(dsn, table, columns)), table


def assert_verified(sidecar: Sidecar) -> None:
    """By the verb, which compares with the leader at one exact block."""
    command = [sys.executable, "-m", "replicator", "verify", str(sidecar.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_failover_and_back(deployment: Failover) -> None:
    """Paris leads, and is killed; Lima leads in epoch 2, Tokyo goes on; Paris comes back as its replica, and leads
    again in epoch 3. Nothing is copied after the first start."""
    paris, lima, tokyo = deployment.sidecars
    paris_dsn, lima_dsn = deployment.primary_dsn, deployment.replica_dsn
    run(paris_dsn, SCHEMA)
    pgbench(deployment.pgbench("-i", "-q", "-s", "2"))
    for sidecar in deployment.sidecars:
        sidecar.start()
    pgbench(deployment.pgbench("-c", "4", "-T", "3"))
    run(paris_dsn, WRITES, "ALTER TABLE payments DROP COLUMN gone", "ALTER TABLE payments ADD note text")
    run(paris_dsn, WRITES, "UPDATE payments SET note = 'seen' WHERE id = 1")
    reach_head(paris, paris_dsn, lima, tokyo)

    paris.kill()
    deployment.primary_server.kill()
    lima.kill()
    journal, role = deployment.role(lima, lima_dsn)
    assert role.readiness() == []
    fork, relations = journal.head(STRAND), journal.definitions(STRAND)
    head = role.promote(2)
    assert (head.epoch, head.sequence) == (2, fork.sequence + 1)
    journal.close()
    run(lima_dsn, WRITES)  # before the source has even been started
    deployment.lead(lima, lima_dsn, 2)
    deployment.follow(tokyo, lima, 'kind = "sqlite"\npath = "ledger.db"')
    pgbench(deployment.pgbench_on_replica("-n", "-c", "4", "-T", "3"))
    run(lima_dsn, WRITES)
    reach_head(lima, lima_dsn, tokyo)
    assert_equal(lima_dsn, deployment)
    ids = [int(row[0] or 0) for row in postgres_rows(lima_dsn, "payments", ["id"])]
    assert len(ids) == len(set(ids)) == 8
    assert sorted(ids)[4] > 1000, "numbers that the old primary may have handed out are left out"

    deployment.primary_server.start()
    journal, role = deployment.role(paris, paris_dsn)
    trio.run(role.capture_rest, JournalHead(journal.head(STRAND)), 30.0)
    assert journal.head(STRAND) == fork, "in this test nothing was left uncaptured"
    role.adopt(fork)
    journal.close()
    deployment.follow(paris, lima, f'kind = "postgres"\ndsn = "{paris_dsn}"')
    run(lima_dsn, WRITES)
    reach_head(lima, lima_dsn, paris, tokyo)
    assert_equal(lima_dsn, deployment, paris_dsn)
    assert_verified(paris)
    assert_verified(tokyo)

    lima.kill()
    paris.kill()
    journal, role = deployment.role(lima, lima_dsn)
    trio.run(role.capture_rest, JournalHead(journal.head(STRAND)), 30.0)
    position = journal.head(STRAND)
    assert journal.definitions(STRAND).items() >= relations.items()
    role.adopt(position)
    journal.close()
    journal, role = deployment.role(paris, paris_dsn)
    assert journal.head(STRAND) == position
    assert role.promote(3).sequence == position.sequence + 1
    journal.close()
    deployment.lead(paris, paris_dsn, 3)
    deployment.follow(lima, paris, f'kind = "postgres"\ndsn = "{lima_dsn}"')
    deployment.follow(tokyo, paris, 'kind = "sqlite"\npath = "ledger.db"')
    pgbench(deployment.pgbench("-n", "-c", "4", "-T", "2"))
    run(paris_dsn, WRITES)
    reach_head(paris, paris_dsn, lima, tokyo)
    assert_equal(paris_dsn, deployment, lima_dsn)
    assert_verified(lima)
    texts = {row[0] for row in postgres_rows(paris_dsn, "receipts", ["text"])}
    assert texts == {"thanks", "THANKS"}, "the trigger of Paris fired where Paris led, and only there"
