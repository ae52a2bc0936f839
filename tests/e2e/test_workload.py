"""A harder workload than pgbench's own: transactions of many statements, rollbacks, key changes, deletes, TOAST.

Two regions follow while every process is killed; in the end all three hold the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.deployment import Deployment, seed

SCHEMA = """
CREATE TABLE wallet (id bigint PRIMARY KEY, user_id text NOT NULL, balance numeric(20, 4) NOT NULL, opened date);
CREATE TABLE document (id int, part int, body text, meta jsonb, raw bytea, PRIMARY KEY (id, part));
ALTER TABLE document ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE movement (id bigserial PRIMARY KEY, wallet bigint, amount numeric(20, 4), at timestamptz DEFAULT now());
CREATE TABLE audit (who text, what text, at timestamptz);
INSERT INTO wallet SELECT n, 'user-' || n % 100, 1000, date '2020-01-01' + n::int FROM generate_series(1, 2000) n;
INSERT INTO document
  SELECT n, 1, repeat('long text ' || n, 2000), jsonb_build_object('n', n), decode(md5(n::text), 'hex')
  FROM generate_series(1, 200) n;
"""

# \\r draws without bias; the odd cases come often enough to meet each other within one second of running.
SCRIPT = r"""
\set wallet random(1, 2000)
\set other random(1, 2000)
\set document random(1, 200)
\set amount random(1, 5000)
\set fresh random(1000000, 1000000000)
\set choice random(1, 100)
\if :choice <= 40
BEGIN;
UPDATE wallet SET balance = balance - :amount / 100.0 WHERE id = :wallet;
UPDATE wallet SET balance = balance + :amount / 100.0 WHERE id = :other;
INSERT INTO movement (wallet, amount) VALUES (:wallet, -:amount / 100.0), (:other, :amount / 100.0);
INSERT INTO audit VALUES ('transfer', NULL, clock_timestamp());
COMMIT;
\elif :choice <= 50
BEGIN;
UPDATE wallet SET balance = 0 WHERE id = :wallet;
DELETE FROM movement WHERE wallet = :wallet;
ROLLBACK;
\elif :choice <= 60
BEGIN;
INSERT INTO movement (wallet, amount) VALUES (:wallet, 1);
SAVEPOINT a;
DELETE FROM document WHERE id = :document;
UPDATE wallet SET balance = -1 WHERE id = :other;
ROLLBACK TO a;
INSERT INTO movement (wallet, amount) VALUES (:wallet, 2);
COMMIT;
\elif :choice <= 68
UPDATE wallet SET id = :fresh WHERE id = :wallet AND NOT EXISTS (SELECT FROM wallet WHERE id = :fresh);
\elif :choice <= 78
UPDATE document SET meta = jsonb_build_object('n', :amount, 'of', jsonb_build_array(1, null, 'é'))
  WHERE id = :document;
\elif :choice <= 84
UPDATE document SET part = 3 - part WHERE id = :document;
\elif :choice <= 88
UPDATE document SET body = repeat('other text ' || :amount, 1500), raw = NULL WHERE id = :document;
\elif :choice <= 94
BEGIN;
DELETE FROM wallet WHERE id = :wallet;
INSERT INTO wallet VALUES (:wallet, 'user-' || :other, :amount, NULL);
UPDATE wallet SET balance = balance + 1 WHERE id = :wallet;
COMMIT;
\elif :choice <= 97
DELETE FROM movement WHERE id IN (SELECT id FROM movement ORDER BY id LIMIT 10);
\else
SELECT pg_logical_emit_message(true, 'note', 'a word in the log');
\endif
"""

TABLES = {
    "wallet": ["id", "user_id", "balance", "opened"],
    "document": ["id", "part", "body", "meta"],
    "movement": ["id", "wallet", "amount", "at"],
    "audit": ["who", "what", "at"],
}
KILLS = 3


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    yield deployment
    deployment.end()


def test_a_hard_workload_with_every_process_killed(deployment: Deployment, tmp_path: Path) -> None:
    draws = random.Random(number := seed())
    print(f"REPLICATOR_TEST_SEED={number}")
    script = tmp_path / "workload.sql"
    script.write_text(SCRIPT)
    with deployment.primary_server.connect("ledger") as connection:
        connection.execute(SCHEMA.encode())
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.kill_while(deployment.pgbench("-n", "-c", "4", "-T", "20", "-f", str(script)), draws, KILLS)
    deployment.converge()
    deployment.assert_equal(TABLES)
    deployment.assert_each_block_once()
    with deployment.primary_server.connect("ledger") as primary, deployment.replica_server.connect("ledger") as replica:
        ids = "SELECT last_value FROM movement_id_seq"
        handed_out = primary.execute(ids).fetchone()
        deployment.lima.reach(lambda _: replica.execute(ids).fetchone() == handed_out, "the sequence's value", 20)
        raw = "SELECT id, part, raw FROM document ORDER BY id, part"
        assert replica.execute(raw).fetchall() == primary.execute(raw).fetchall()
