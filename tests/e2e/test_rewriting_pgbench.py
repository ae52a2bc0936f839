"""Repair and resync while pgbench writes: what hands did to both replicas is found, named, and cured."""

from __future__ import annotations

import datetime
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.deployment import Deployment
from tests.e2e.test_pgbench import TABLES
from tests.faults.regions import run_verb

# In a table that pgbench leaves alone, else it would cure them itself; and a line of one without a key.
DAMAGE = (
    "UPDATE wallets SET balance = 7 WHERE id IN (1, 2)",
    "DELETE FROM wallets WHERE id = 3",
    "INSERT INTO wallets (id, balance) VALUES (999, 1)",
    "UPDATE pgbench_history SET delta = 1000000 WHERE (_sequence, _ordinal) ="
    " (SELECT _sequence, _ordinal FROM pgbench_history ORDER BY 1, 2 LIMIT 1)",
)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    yield deployment
    deployment.end()


def hands(deployment: Deployment) -> None:
    with psycopg.connect(deployment.replica_dsn, autocommit=True) as db:
        for statement in DAMAGE:
            db.execute(statement.encode())
    with sqlite3.connect(deployment.sqlite_path, timeout=30, isolation_level=None) as lite:
        for statement in DAMAGE:
            lite.execute(statement)
    lite.close()


def test_while_pgbench_writes(deployment: Deployment) -> None:
    deployment.pgbench("-i", "-q").communicate(timeout=120)
    with psycopg.connect(deployment.primary_dsn, autocommit=True) as db:
        db.execute("CREATE TABLE wallets AS SELECT n AS id, 0 AS balance FROM generate_series(1, 100) n")
        db.execute("ALTER TABLE wallets ADD PRIMARY KEY (id)")
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.pgbench("-t", "50").communicate(timeout=60)
    deployment.converge()
    since = datetime.datetime.now(datetime.UTC).isoformat()
    with psycopg.connect(deployment.primary_dsn, autocommit=True) as db:
        db.execute("UPDATE wallets SET balance = balance + 1")
    deployment.converge()
    running = deployment.pgbench("-n", "-c", "2", "-R", "100", "-T", "900")  # -n: it does not truncate its history
    hands(deployment)
    for replica in (deployment.lima, deployment.tokyo):
        config = str(replica.config)
        done = run_verb("repair", config, "--apply", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        keys = json.loads(done.stdout)["report"]["keys"]
        written = sorted(key["key"].get("id", "a line") for key in keys if key["state"] == "differs")
        assert written == ["1", "2", "3", "999", "a line"]
    hands(deployment)
    for replica in (deployment.lima, deployment.tokyo):
        config = str(replica.config)
        done = run_verb("resync", config, "--from", since, "--json")
        told = json.loads(done.stdout)
        assert done.returncode == 16, done.stdout + done.stderr
        assert told["job"]["differing"] == 3, "the key that never was, and a line from before, are not of the span"
        assert "3 keys differ" in told["verdict"]["message"], "an altered line counts twice: lost, and too many"
        done = run_verb("repair", config, "--apply")
        assert done.returncode == 0, done.stdout + done.stderr
    assert running.poll() is None, "pgbench ended before the end of what it was to disturb"
    running.terminate()
    running.communicate(timeout=60)
    deployment.converge()
    deployment.assert_equal({**TABLES, "wallets": ["id", "balance"]})
    deployment.assert_each_block_once()
