"""Repair, resync and time travel as an operator does them: real processes, both kinds of replica."""

from __future__ import annotations

import datetime
import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.e2e.sidecars import postgres_rows, sequence, sqlite_rows
from tests.faults.regions import EMBEDDED, Region, assert_equal, follow, postgres_replica, run_verb, sqlite_replica

COLUMNS = ["wallet_id", "user_id", "version", "document"]


class Regions:
    """Paris writes, Lima (PostgreSQL) and Tokyo (SQLite) follow."""

    def __init__(self, directory: Path, new_database: Callable[[], str]) -> None:
        self.dsn, self.new_database = new_database(), new_database
        self.paris = Region(directory, "paris", "primary", EMBEDDED)
        follows = follow(self.paris.url)
        self.lima = Region(directory, "lima", "replica", follows + postgres_replica(self.dsn))
        self.tokyo = Region(directory, "tokyo", "replica", follows + sqlite_replica())
        self.lite = self.tokyo.directory / "ledger.db"
        self.replicas = [self.lima, self.tokyo]

    def head(self) -> int:
        return int(self.paris.ask("/feed/v1/main/positions/head").json()["position"].split(":")[2])

    def reach(self, *replicas: Region) -> None:
        head = self.head()
        for replica in replicas or self.replicas:
            replica.reach_sequence("applied", head)

    def change(self, first: int, count: int, balance: int) -> None:
        """A block that updates these wallets."""
        statements = [
            {
                "table": "wallets",
                "op": "put",
                "document": {"wallet_id": f"w{number:07}", "user_id": f"u{number % 7}", "balance": balance},
            }
            for number in range(first, first + count)
        ]
        answer = httpx.post(
            f"{self.paris.url}/v1/transactions", json={"statements": statements}, timeout=60, trust_env=False
        )
        assert answer.status_code == 200, answer.text

    def execute(self, replica: Region, statement: str) -> None:
        """By hand, behind the sidecar's back."""
        if replica is self.lima:
            with psycopg.connect(self.dsn, autocommit=True) as db:
                db.execute(statement.encode())
        else:
            with sqlite3.connect(self.lite, timeout=10, isolation_level=None) as lite:
                lite.execute(statement)
            lite.close()

    def rows(self, replica: Region) -> list[tuple[str | None, ...]]:
        if replica is self.lima:
            return list(postgres_rows(self.dsn, "wallets", COLUMNS))
        return list(sqlite_rows(self.lite, "wallets", COLUMNS))


@pytest.fixture
def regions(new_database: Callable[[], str], tmp_path: Path) -> Iterator[Regions]:
    made = Regions(tmp_path, new_database)
    made.paris.start()
    made.paris.reach_sequence("applied", 1)
    for first in range(0, 300, 100):
        made.paris.write(first, 100)
    for replica in made.replicas:
        replica.start()
    made.reach()
    yield made
    for region in (made.paris, *made.replicas):
        region.end()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def asked(code: int, *arguments: str) -> Any:
    """What a verb says with ``--json``; it must end with this code."""
    done = run_verb(*arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


# -- repair

DAMAGE = (
    "UPDATE wallets SET user_id = 'hand' WHERE wallet_id = 'w0000003'",
    "DELETE FROM wallets WHERE wallet_id = 'w0000004'",
    "INSERT INTO wallets (wallet_id, user_id, version, document) VALUES ('ghost', 'u1', 1, '{}')",
)


def test_repair(regions: Regions, tmp_path: Path) -> None:
    """The dry run shows and changes nothing; --apply cures just those keys while writes go on; the primary refuses."""
    regions.change(3, 2, 30)
    regions.reach()
    for replica in regions.replicas:
        for statement in DAMAGE:
            regions.execute(replica, statement)
        stored = regions.rows(replica)
        config = str(replica.config)
        shown = asked(16, "repair", config)
        keys = {key["key"]["wallet_id"]: key for key in shown["report"]["keys"]}
        assert {name: key["state"] for name, key in keys.items()} == dict.fromkeys(
            ["w0000003", "w0000004", "ghost"], "differs"
        )
        assert regions.rows(replica) == stored
        assert "nothing was changed" in run_verb("repair", config).stdout
        report = tmp_path / f"{replica.name}.json"
        done = asked(0, "repair", config, "--apply", "--report", str(report), "--who", "ops")
        assert done["verdict"]["result"] == "equal"
        kept = json.loads(report.read_text())
        assert kept == json.loads(Path(kept["report"]).read_text())
        before = {key["key"]["wallet_id"]: key["before"] for key in kept["keys"]}
        assert before["w0000003"]["user_id"] == "hand"
        assert before["w0000004"] is None
        assert asked(0, "repair", config)["verdict"]["result"] == "equal"
    assert_equal(*regions.replicas)
    refused = run_verb("repair", str(regions.paris.config), "--apply")
    assert refused.returncode == 2
    assert "not_a_replica" in refused.stderr
    answer = httpx.post(f"{regions.paris.url}/v1/repair", json={}, trust_env=False)
    assert (answer.status_code, answer.json()["reason"]) == (409, "not_a_replica")


def test_repair_cannot_compare_without_the_primary(regions: Regions) -> None:
    regions.paris.stop()
    done = run_verb("repair", str(regions.tokyo.config))
    assert done.returncode == 32, done.stdout + done.stderr
    assert "unreachable" in done.stdout


def test_repair_killed_between_report_and_change(regions: Regions) -> None:
    """Another session's lock stops the sidecar right behind its report; it is killed there."""
    regions.execute(regions.lima, DAMAGE[0])
    stored = regions.rows(regions.lima)
    reports = regions.lima.data / "repairs"
    with psycopg.connect(regions.dsn) as other:
        other.execute("LOCK TABLE wallets IN SHARE MODE")  # reads pass, writes wait
        command = [sys.executable, "-m", "replicator", "repair", str(regions.lima.config), "--apply"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as repair:
            deadline = time.monotonic() + 30
            while not list(reports.glob("*.json")):
                assert time.monotonic() < deadline, "no report was written"
                time.sleep(0.02)  # polls another process' file
            regions.lima.kill()
            repair.communicate()
            assert repair.returncode == 1
    (path,) = reports.glob("*.json")
    report = json.loads(path.read_text())
    assert report["applied"] is False
    assert report["keys"][0]["before"]["user_id"] == "hand"
    assert regions.rows(regions.lima) == stored
    regions.lima.start()
    regions.reach(regions.lima)
    asked(0, "repair", str(regions.lima.config), "--apply")


# -- resync


def test_resync_of_an_old_copy_killed_half_way(regions: Regions) -> None:
    """A file put back from an old copy replays by itself, then is resynced; killed in the middle; as was planned."""
    tokyo, config = regions.tokyo, str(regions.tokyo.config)
    regions.tokyo.stop()
    old = regions.tokyo.directory / "old.db"
    shutil.copy(regions.lite, old)
    since = now()
    for first in range(1000, 31000, 1000):
        regions.paris.write(first, 1000)
    regions.change(0, 200, 7)
    tokyo.start()
    regions.reach(tokyo)
    tokyo.stop()
    for suffix in ("", "-wal", "-shm"):
        regions.lite.with_name(regions.lite.name + suffix).unlink(missing_ok=True)
    shutil.copy(old, regions.lite)
    tokyo.start()
    tokyo.reach(lambda status: status["strands"] != [], "an answer")
    regions.reach(tokyo)
    touched = "wallet_id BETWEEN 'w0000100' AND 'w0000199' OR wallet_id BETWEEN 'w0001000' AND 'w0019999'"
    regions.execute(tokyo, f"UPDATE wallets SET user_id = 'hand' WHERE {touched}")
    plan = asked(0, "resync", config, "--from", since, "--plan")["job"]
    command = [sys.executable, "-m", "replicator", "resync", config, "--from", since, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 60
        while not ((job := tokyo.ask("/v1/resync").json()["job"]) and not job["plan"] and job["compared"] > 1000):
            assert time.monotonic() < deadline, job
            time.sleep(0.01)  # polls the progress
        assert job["state"] == "rewriting"
        tokyo.kill()
        with sqlite3.connect(regions.lite) as lite:
            (wrong,) = lite.execute("SELECT count(*) FROM wallets WHERE user_id = 'hand'").fetchone()
        assert 0 < wrong < 19100, "it was not killed half-way"
        tokyo.start()
        output, _ = running.communicate(timeout=120)
        assert running.returncode == 0, output + tokyo.log()
    told = json.loads(output)
    job = told["job"]
    assert told["verdict"]["result"] == "equal"
    assert (job["blocks"], job["keys"], job["bytes"]) == (plan["blocks"], plan["keys"], plan["bytes"])
    assert (job["blocks"], job["keys"]) == (31, 30200)
    # a chunk that was committed and not noted as done is not counted again
    assert plan["conflicts"] * 0.8 <= job["differing"] <= plan["conflicts"] * 1.2
    assert 0 < plan["expected_seconds"] < 60
    assert asked(0, "resync", config)["job"]["state"] == "done"


def test_resync_under_writes_with_filters(regions: Regions) -> None:
    """Both kinds; by table and user; a primary and a wrong time are refused."""
    since = now()
    for number in range(20):
        regions.change(number * 10, 50, number)  # wallets 0 to 239
    regions.reach()
    for replica in regions.replicas:
        config = str(replica.config)
        regions.execute(replica, "UPDATE wallets SET version = 0 WHERE user_id IN ('u1', 'u2')")
        told = asked(16, "resync", config, "--from", since, "--users", "u1", "--tables", "wallets")
        assert told["job"]["differing"] == told["job"]["compared"] - told["job"]["other_users"] > 0
        assert [row[1] for row in regions.rows(replica) if row[2] == "0" and int(str(row[0])[1:]) < 240] == [
            "u2"
        ] * sum(1 for number in range(240) if number % 7 == 2)
        command = [sys.executable, "-m", "replicator", "resync", config, "--from", since, "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            for number in range(10):
                regions.change(number * 20, 20, 1000 + number)
            output, _ = running.communicate(timeout=60)
        assert running.returncode == 16, output  # wallets 240 to 299 were not touched since
        asked(0, "repair", config, "--apply")
    assert run_verb("resync", str(regions.paris.config), "--from", since).returncode == 2
    assert run_verb("resync", str(regions.lima.config), "--from", "yesterday").returncode == 2
    assert run_verb("resync", str(regions.lima.config), "--to", since).returncode == 2
    cancel = run_verb("resync", str(regions.lima.config), "--cancel")
    assert (cancel.returncode, "nothing_under_way" in cancel.stderr) == (1, True)


# -- time travel


def test_time_travel(regions: Regions, tmp_path: Path) -> None:
    """The copy is the replica that was stopped at that sequence, row for row, into both kinds of database."""
    regions.change(0, 100, 1)
    regions.reach()
    then, at = now(), regions.head()
    regions.tokyo.stop()
    regions.lima.stop()
    frozen = regions.rows(regions.tokyo)
    regions.tokyo.start()
    regions.lima.start()
    regions.change(0, 300, 2)
    regions.paris.write(1000, 10)
    regions.reach()
    assert regions.rows(regions.tokyo) != frozen
    into = tmp_path / "then.sqlite3"
    journal = {path.name: path.stat().st_mtime_ns for path in regions.tokyo.data.iterdir()}
    plan = asked(0, "resync", str(regions.tokyo.config), "--to", then, "--into", str(into), "--plan")
    assert (plan["sequence"], plan["blocks"]) == (at, at)
    assert not into.exists()
    told = asked(0, "resync", str(regions.tokyo.config), "--to", then, "--into", str(into))
    assert told["sequence"] == at
    assert list(sqlite_rows_of_a_copy(into)) == frozen
    assert not into.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert sorted(journal) == sorted(path.name for path in regions.tokyo.data.iterdir())
    again = asked(0, "resync", str(regions.tokyo.config), "--to", then, "--into", str(into))
    assert "finished before" in again["notes"][0]
    # a stopped sidecar's journal, into PostgreSQL
    regions.lima.stop()
    dsn = regions.new_database()
    told = asked(0, "resync", str(regions.lima.config), "--to", then, "--into", dsn)
    assert list(postgres_rows(dsn, "wallets", COLUMNS)) == list(frozen)
    with psycopg.connect(dsn) as db, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        db.execute("DELETE FROM wallets")
    # what is taken is never written to
    for place in (str(regions.lite), regions.dsn):
        refused = run_verb("resync", str(regions.tokyo.config), "--to", then, "--into", place)
        assert (refused.returncode, "not_empty" in refused.stderr) == (2, True), refused.stderr
    other = run_verb("resync", str(regions.tokyo.config), "--to", now(), "--into", str(into))
    assert (other.returncode, "another_moment" in other.stderr) == (2, True), other.stderr


def sqlite_rows_of_a_copy(path: Path) -> Iterator[tuple[str | None, ...]]:
    """As somebody opens it who may not write."""
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    texts = ", ".join(f"CAST({name} AS TEXT)" for name in COLUMNS)
    yield from sorted(db.execute(f"SELECT {texts} FROM wallets").fetchall())
    db.close()


def test_time_travel_goes_on_where_it_was_killed(regions: Regions, tmp_path: Path) -> None:
    for first in range(1000, 21000, 1000):
        regions.paris.write(first, 1000, filler="x" * 1500)  # large blocks, each in a transaction of its own
    regions.reach(regions.tokyo)
    then, into = now(), tmp_path / "then.sqlite3"
    command = [sys.executable, "-m", "replicator", "resync", str(regions.tokyo.config), "--to", then]
    with subprocess.Popen([*command, "--into", str(into)]) as building:
        deadline = time.monotonic() + 60
        while not (reached := position(into)):
            assert time.monotonic() < deadline
            assert building.poll() is None
            time.sleep(0.005)  # polls another process' file
        building.kill()
    assert reached > 0
    assert into.stat().st_mode & stat.S_IWUSR
    told = asked(0, *command[3:], "--into", str(into))
    assert told["sequence"] == regions.head()
    assert list(sqlite_rows_of_a_copy(into)) == regions.rows(regions.tokyo)
    assert sequence(regions.tokyo.status() or {}, "applied") == regions.head()


def position(path: Path) -> int:
    """The sequence that a copy has reached; 0 while there is none."""
    if not path.exists():
        return 0
    db = sqlite3.connect(path, timeout=10)
    try:
        found = db.execute("SELECT max(sequence) FROM _replicator_position").fetchone()
    except sqlite3.OperationalError:
        return 0
    finally:
        db.close()
    return int(found[0] or 0)
