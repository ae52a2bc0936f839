"""A replica under watch: what somebody changes behind its back is found by the scrub, named, and gone once it is cured;
while writes go on nothing is called different that is not.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.deployment import Deployment
from tests.e2e.sidecars import Sidecar

WATCH = '[verify]\ncheckpoint = "200ms"\nscrub = "500ms"\nscrub_rows = 1_000_000\n\n'


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, settle=WATCH)
    yield made
    made.end()


def verdict(sidecar: Sidecar) -> tuple[int, list[dict[str, Any]]]:
    """``replicator verify``: its exit code and what it says of each table."""
    command = [sys.executable, "-m", "replicator", "verify", str(sidecar.config), "--json", "--list", "100"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (told,) = json.loads(run.stdout)
    return run.returncode, told.get("tables", told)


def divergent(status: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = status["strands"][0]["verify"]["divergent_keys"]
    return found


def scrubs(status: dict[str, Any]) -> int:
    count: int = status["strands"][0]["verify"]["scrubs"]
    return count


def proven(status: dict[str, Any]) -> bool:
    marks = status["strands"][0]["marks"]
    return marks["verified"] is not None and marks["verified"] == marks["applied"]


def on_sqlite(path: Path) -> Callable[[str], None]:
    def execute(sql: str) -> None:
        with sqlite3.connect(path, timeout=30) as connection:
            connection.execute(sql)
        connection.close()

    return execute


def on_postgres(dsn: str) -> Callable[[str], None]:
    def execute(sql: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.encode())

    return execute


def test_hand_made_changes_are_found_and_named_while_pgbench_runs(deployment: Deployment) -> None:
    deployment.pgbench("-i", "-s", "1").communicate(timeout=120)
    primary = on_postgres(deployment.primary_dsn)
    primary("CREATE TABLE audit (id int PRIMARY KEY, what text, at timestamptz DEFAULT now(), much numeric)")
    primary("INSERT INTO audit SELECT i, 'entry ' || i, now(), i * 1.10 FROM generate_series(1, 2000) AS i")
    for sidecar in deployment.sidecars:
        sidecar.start()
    replicas = {
        deployment.lima: on_postgres(deployment.replica_dsn),
        deployment.tokyo: on_sqlite(deployment.sqlite_path),
    }
    deployment.converge()
    for replica in replicas:
        replica.reach(lambda status: scrubs(status) > 0 and proven(status), "proven equal")
    running = deployment.pgbench("-c", "2", "-T", "12", "-R", "150")
    for replica, execute in replicas.items():
        code, tables = verdict(replica)
        assert code == 0, tables
        execute("UPDATE audit SET what = 'by hand' WHERE id = 11")
        execute("DELETE FROM audit WHERE id = 12")
        execute("INSERT INTO audit (id, what) VALUES (70000, 'mine')")
        replica.reach(lambda status: divergent(status) == {"audit": 3}, "the scrub finds what was changed by hand")
        code, tables = verdict(replica)
        assert code == 16
        found = {(t["table"], *d["key"].values()): d for t in tables for d in t["differences"]}
        assert found.keys() == {("audit", "11"), ("audit", "12"), ("audit", "70000")}
        assert all(difference["odd"] == [replica.name] for difference in found.values()), found
        causes = [difference["cause"] for _, difference in sorted(found.items())]
        assert "no block ever wrote this row" in causes[0]
        assert "deleted by somebody else" in causes[1]
        assert "no block ever wrote this key" in causes[2]
        command = [sys.executable, "-m", "replicator", "repair", str(replica.config), "--apply"]
        repaired = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert repaired.returncode == 0, repaired.stdout + repaired.stderr
        replica.reach(lambda status: divergent(status) == {} and proven(status), "repaired and proven")
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output


def test_a_checkpoint_finds_what_replay_did_wrong_and_the_first_block(deployment: Deployment) -> None:
    """Triggers stand for faults of replay: they skip a statement, or put an older row back."""
    primary = on_postgres(deployment.primary_dsn)
    primary("CREATE TABLE wallet (id int PRIMARY KEY, balance int)")
    primary("INSERT INTO wallet SELECT i, 0 FROM generate_series(1, 5) AS i")
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.converge()
    for replica in (deployment.lima, deployment.tokyo):
        replica.reach(proven, "proven equal")
    skip = on_sqlite(deployment.sqlite_path)
    skip(
        "CREATE TRIGGER skip AFTER UPDATE ON wallet WHEN NEW.id = 3 AND NEW.balance = 30"
        " BEGIN UPDATE wallet SET balance = OLD.balance WHERE id = 3; END"
    )
    on_postgres(deployment.replica_dsn)(
        # Replay is spared what users make; this one is as our own would be.
        "CREATE FUNCTION replicator.skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER skip BEFORE INSERT OR UPDATE ON wallet FOR EACH ROW WHEN (NEW.id = 3 AND NEW.balance = 30)"
        " EXECUTE FUNCTION replicator.skip(); ALTER TABLE wallet ENABLE ALWAYS TRIGGER skip"
    )
    for amount in (10, 20, 30):
        primary(f"UPDATE wallet SET balance = {amount} WHERE id IN (2, 3)")
        deployment.converge()
    head = deployment.converge()
    for replica in (deployment.lima, deployment.tokyo):
        replica.reach(lambda status: divergent(status) == {"wallet": 1}, "the checkpoint finds it")
        status = replica.status()
        assert status is not None
        (wrong,) = status["strands"][0]["verify"]["wrong"]
        assert wrong["key"] == "id=3"
        assert wrong["odd"] == [replica.name]
        assert wrong["first_block"] is not None
        assert wrong["first_block"] < head
        assert not proven(status)
        assert replica.metric("replicator_mismatches_total") == 1
    on_postgres(deployment.replica_dsn)("DROP TRIGGER skip ON wallet")
    skip("DROP TRIGGER skip")
    primary("UPDATE wallet SET balance = 40 WHERE id = 3")
    for replica in (deployment.lima, deployment.tokyo):
        replica.reach(lambda status: divergent(status) == {} and proven(status), "right again")


def test_the_primary_is_named_when_its_tables_are_not_what_it_told(deployment: Deployment) -> None:
    primary = on_postgres(deployment.primary_dsn)
    primary("CREATE TABLE wallet (id int PRIMARY KEY, balance int)")
    primary("INSERT INTO wallet SELECT i, 0 FROM generate_series(1, 5) AS i")
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.converge()
    # What no change stream tells: a row that is changed while the table is not logged, where nobody refuses that.
    primary(
        "ALTER EVENT TRIGGER replicator_logged_tables DISABLE; ALTER TABLE wallet SET UNLOGGED;"
        " UPDATE wallet SET balance = 7 WHERE id = 2; ALTER TABLE wallet SET LOGGED"
    )
    for replica in (deployment.lima, deployment.tokyo):
        replica.reach(lambda status: divergent(status) == {"wallet": 1}, "the scrub finds it")
        code, tables = verdict(replica)
        assert code == 16
        (difference,) = next(t for t in tables if t["table"] == "wallet")["differences"]
        assert (difference["key"], difference["odd"]) == ({"id": "2"}, ["primary"])


def test_the_proven_position_outlives_the_sidecar(deployment: Deployment) -> None:
    primary = on_postgres(deployment.primary_dsn)
    primary("CREATE TABLE wallet (id int PRIMARY KEY, balance int)")
    for sidecar in deployment.sidecars:
        sidecar.start()
    deadline, count = time.monotonic() + 8, 0
    while time.monotonic() < deadline:  # longer than the note waits to be written
        count += 1
        primary(f"INSERT INTO wallet VALUES ({count}, 0)")
    head = deployment.converge()
    tokyo = deployment.tokyo
    tokyo.reach(proven, "proven equal")
    tokyo.kill()
    with sqlite3.connect(tokyo.directory / "data" / "journal.sqlite3") as journal:
        ((kept,),) = journal.execute("SELECT value FROM note WHERE key = 'verified:main'").fetchall()
    assert 0 < int(kept.split(":")[2]) <= head
    tokyo.start()
    tokyo.reach(proven, "proven equal again")


def named(tables: list[dict[str, Any]]) -> dict[str, str]:
    return {table["table"]: table["problem"] for table in tables if table["problem"]}


def test_what_cannot_be_compared_is_named_and_everything_else_is_compared(deployment: Deployment) -> None:
    primary, lima = on_postgres(deployment.primary_dsn), on_postgres(deployment.replica_dsn)
    names = ("added", "dropped", "lost", "retyped", "wide", "without")
    for name in names:
        primary(f"CREATE TABLE {name} (id int PRIMARY KEY, note text, more int)")
        primary(f"INSERT INTO {name} SELECT i, 'row ' || i, i FROM generate_series(1, 50) AS i")
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.converge()
    for region in (deployment.lima, deployment.tokyo):
        region.reach(lambda status: scrubs(status) > 0 and proven(status), "proven equal")
    # None of these brings a row that would tell the log.
    primary("ALTER TABLE added ADD COLUMN at float8 DEFAULT random()")
    primary("DROP TABLE dropped")
    primary("ALTER TABLE retyped ALTER COLUMN more TYPE text USING 'n' || more")
    primary("ALTER TABLE without DROP COLUMN more")
    primary(
        "ALTER EVENT TRIGGER replicator_logged_tables DISABLE; CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);"
        " INSERT INTO fast VALUES (1); ALTER TABLE fast SET LOGGED"
    )
    primary("ALTER TABLE wide ADD COLUMN nothing int")
    lima("DROP TABLE lost")
    lima("UPDATE wide SET note = 'by hand' WHERE id = 7")
    deployment.converge()
    code, tables = verdict(deployment.lima)
    problems = named(tables)
    assert code == 16
    assert problems.keys() == {"added", "dropped", "fast", "lost", "retyped", "without"}, problems
    assert "column at has values that no block carries" in problems["added"]
    assert "50 rows" in problems["dropped"]
    assert "it has rows that no block carries" in problems["fast"]
    assert "on the replica" in problems["lost"]
    assert "more is text in the table and integer in the ledger" in problems["retyped"]
    assert "column more is not in the table any more" in problems["without"]
    (wide,) = (table for table in tables if table["table"] == "wide")
    assert [difference["key"] for difference in wide["differences"]] == [{"id": "7"}]
    # Scrubs go on, find what they can, and count as wrong in this region what is wrong here.
    deployment.lima.reach(lambda status: divergent(status) == {"wide": 1, "lost": 1}, "what is wrong in this region")
    done = scrubs(deployment.tokyo.status() or {})
    deployment.tokyo.reach(lambda status: scrubs(status) > done + 1 and divergent(status) == {}, "scrubs go on")
    assert "Traceback" not in deployment.logs()
    # The printed cures work: a row tells the log of the column; a region that is made anew has the dropped table empty.
    primary("UPDATE without SET id = id WHERE id = 1")
    lima("CREATE TABLE lost (id int PRIMARY KEY, note text, more int)")
    deployment.converge()
    deployment.lima.reach(lambda status: "without" not in status["strands"][0]["verify"]["trouble"], "it is compared")
    deployment.tokyo.stop()
    command = [sys.executable, "-m", "replicator", "bootstrap", str(deployment.tokyo.config), "--replace"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1
    assert "retyped" in refused.stderr + refused.stdout, "a copy that would lack something in silence is refused"
    primary("ALTER TABLE retyped ALTER COLUMN more TYPE int USING substr(more, 2)::int")
    made = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stdout + made.stderr
    deployment.tokyo.start()
    deployment.converge()
    code, tables = verdict(deployment.tokyo)
    assert named(tables).keys() == {"added", "fast"}, named(tables)
