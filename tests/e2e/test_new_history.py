"""A primary whose source has halted for good begins a new history, by the words of the cure that it prints."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.deployment import Deployment
from tests.faults.regions import run_verb


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.end()


def trouble(status: dict[str, Any]) -> dict[str, Any]:
    (stage,) = (stage for stage in status["strands"][0]["stages"] if stage["stage"] == "source")
    found: dict[str, Any] = stage["trouble"] or {}
    return found


def do(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        for statement in statements:
            db.execute(statement.encode())


def drop_slot(dsn: str) -> None:
    """As soon as the server has noticed that nobody reads it any more."""
    gone = "SELECT count(*) FROM pg_replication_slots WHERE active"
    with psycopg.connect(dsn, autocommit=True) as db:
        while db.execute(gone).fetchone() != (0,):
            time.sleep(0.02)
        db.execute("SELECT pg_drop_replication_slot('replicator')")


def test_the_printed_way_out_of_a_halt_leads_to_equal_regions(deployment: Deployment) -> None:
    """Somebody drops the slot while the sidecar is away: what was committed since is in no log any more."""
    primary = deployment.primary
    do(deployment.primary_dsn, "CREATE TABLE kept (id int PRIMARY KEY)", "INSERT INTO kept VALUES (1)")
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.converge()
    deployment.pgbench("-i", "-s", "1").communicate(timeout=120)
    primary.kill()
    do(
        deployment.primary_dsn,
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active",
        "UPDATE pgbench_accounts SET abalance = 1 WHERE aid = 1",
    )
    drop_slot(deployment.primary_dsn)
    primary.start()
    primary.reach(lambda status: trouble(status).get("reason") == "slot_missing", "the slot is gone")
    cure = trouble(primary.status() or {})["cure"]
    assert "move its data directory away" in cure
    assert "replicator bootstrap CONFIG --replace" in cure
    # Verbs that are for something else say so, and what is meant.
    for verb in ("orphans", "failover"):
        refused = run_verb(verb, str(primary.config))
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "this region is in no cluster" in refused.stderr
    refused = run_verb("bootstrap", str(primary.config), "--replace")
    assert refused.returncode == 2
    assert "move its data directory away" in refused.stderr
    # Step by step, as it is printed.
    primary.stop()
    (statement,) = re.findall(r"\((SELECT pg_drop_replication_slot\('SLOT'\))\)", cure)
    (data_dir,) = re.findall(r'data_dir = "([^"]+)"', primary.config.read_text())
    directory = primary.config.parent / data_dir
    directory.rename(directory.with_name("moved-away"))
    with contextlib.suppress(psycopg.errors.UndefinedObject):  # "if it is there"
        do(deployment.primary_dsn, statement.replace("SLOT", "replicator"))
    primary.start()
    for replica in (deployment.lima, deployment.tokyo):
        replica.stop()
        primary.reach(lambda status: status["source"]["phase"] == "streaming", "the new copy")
        made = run_verb("bootstrap", str(replica.config), "--replace")
        assert made.returncode == 0, made.stdout + made.stderr
        replica.start()
    do(deployment.primary_dsn, "UPDATE pgbench_accounts SET abalance = 2 WHERE aid = 2")
    deployment.converge()
    compared = run_verb("verify", str(deployment.lima.config), str(deployment.tokyo.config))
    assert compared.returncode == 0, compared.stdout + compared.stderr
