"""Regions that are made anew, with real processes: away for too long, killed half-way, from and into every kind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from replicator.pipeline.replicas.sqlite import SqliteReader
from tests.e2e.sidecars import sequence
from tests.faults.regions import (
    EMBEDDED,
    Region,
    assert_equal,
    follow,
    postgres_replica,
    postgres_source,
    run_verb,
    sqlite_replica,
    troubles,
)

SMALL = '[journal]\nkeep_bytes = "40kB"\n'
BUDGET = f'{SMALL}budget_bytes = "120kB"\n'


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Region]]:
    """Makes regions, and ends them."""
    regions: list[Region] = []

    def make(name: str, role: str, sections: str, *, start: bool = True) -> Region:
        region = Region(tmp_path, name, role, sections)
        regions.append(region)
        if start:
            region.start()
        return region

    yield make
    for region in regions:
        region.end()


def fill(region: Region, first: int, transactions: int, rows: int = 20) -> None:
    """Transactions of some kilobytes."""
    for number in range(transactions):
        assert region.write(first + number * rows, rows, filler="x" * 100).status_code == 200


@contextmanager
def writing(region: Region, first: int) -> Iterator[None]:
    """Writes go on meanwhile."""
    stop = threading.Event()

    def write() -> None:
        number = first
        while not stop.is_set():
            assert region.write(number, 5).status_code == 200
            number += 5
            time.sleep(0.02)  # a pace, not a wait

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def journal(region: Region) -> dict[str, object]:
    status = region.status()
    assert status is not None
    found: dict[str, object] = status["strands"][0]["journal"] or {}
    return found


def reach_journal(region: Region, done: Callable[[dict[str, object]], bool], what: str) -> None:
    region.reach(lambda status: done(status["strands"][0]["journal"] or {}), what, 20)


def bootstrap(region: Region, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_verb("bootstrap", str(region.config), *arguments)


def kill_half_way(region: Region, *arguments: str, rows: Callable[[], int]) -> None:
    """Bootstrap, killed once some rows are there."""
    command = [sys.executable, "-m", "replicator", "bootstrap", str(region.config), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while rows() == 0:
            assert process.poll() is None, process.communicate()[0].decode()
            time.sleep(0.02)  # polls another process
    finally:
        process.kill()
        process.wait()
    assert (region.data / "copy.json").exists()


def count(dsn: str, table: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            return 0
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert row is not None
        return int(row[0])


def test_a_region_that_was_away_too_long_is_told_so_and_made_anew(started: Callable[..., Region]) -> None:
    paris = started("paris", "primary", EMBEDDED + BUDGET)
    tokyo = started("tokyo", "replica", follow(paris.url) + sqlite_replica())
    tokyo.reach_sequence("applied", 1)
    fill(paris, 0, 3)
    tokyo.reach_sequence("applied", 4)
    assert tokyo.stop() == 0
    fill(paris, 1000, 25)
    reach_journal(paris, lambda kept: kept.get("held_by") == "tokyo", "held by tokyo")
    assert paris.metric("replicator_journal_held") == 1.0
    listed = json.loads(run_verb("regions", str(paris.config), "--json").stdout)
    assert [(region["region"], region["state"]) for region in listed["regions"]] == [("tokyo", "away")]

    fill(paris, 10_000, 60)
    reach_journal(paris, lambda kept: kept.get("lost") == ["tokyo"], "past tokyo")
    assert "pruned past what region tokyo needs" in paris.log()
    assert (paris.metric("replicator_journal_forced_blocks_total") or 0) > 0
    assert run_verb("journal", "verify", str(paris.config)).returncode == 0

    tokyo.start()
    trouble = tokyo.trouble("pruned", condition="halted")
    assert "replicator bootstrap CONFIG" in trouble["cure"]
    assert tokyo.stop() == 0

    before = sorted(path.name for path in tokyo.directory.rglob("*") if path.is_file())
    plan = bootstrap(tokyo, "--plan")
    assert plan.returncode == 0, plan.stderr
    assert "is refused" in plan.stdout
    refused = bootstrap(tokyo)
    assert refused.returncode == 1
    assert "region_has_data" in refused.stderr
    assert sorted(path.name for path in tokyo.directory.rglob("*") if path.is_file()) == before

    with writing(paris, 50_000):
        done = bootstrap(tokyo, "--replace", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"] >= 88 * 20
        assert len(json.loads(done.stdout)["set_aside"]) >= 3
        tokyo.start()
        tokyo.reach_calm()
        assert_equal(tokyo)
    assert_equal(tokyo)
    assert run_verb("journal", "verify", str(tokyo.config)).returncode == 0


def test_killed_half_way_it_goes_on_and_never_runs_meanwhile(
    started: Callable[..., Region], new_database: Callable[[], str]
) -> None:
    """From a SQLite replica region into PostgreSQL; the primary has pruned what a new region would need."""
    dsn = new_database()
    paris = started("paris", "primary", EMBEDDED + SMALL)
    tokyo = started("tokyo", "replica", follow(paris.url) + sqlite_replica())
    tokyo.reach_sequence("applied", 1)
    fill(paris, 0, 60)
    tokyo.reach_sequence("applied", 61)
    reach_journal(paris, lambda kept: int(str(kept.get("begins_behind", 0))) > 20, "pruned")
    lima = started("lima", "replica", follow(paris.url) + postgres_replica(dsn), start=False)

    arguments = ("--from", tokyo.url, "--rate", "200")
    with writing(paris, 50_000):
        kill_half_way(lima, *arguments, rows=lambda: count(dsn, "wallets"))
        ran = run_verb("run", str(lima.config))
        assert ran.returncode == 1
        assert "half_copied" in ran.stderr
        half = json.loads((lima.data / "copy.json").read_text())
        copied = count(dsn, "wallets")
        assert copied < 1200
        done = bootstrap(lima, "--from", tokyo.url, "--rate", "2000", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["position"] == half["position"], "another copy was begun"
        lima.start()
        lima.reach_calm()
        assert_equal(lima, tokyo)
    assert not (lima.data / "copy.json").exists()
    listed = json.loads(run_verb("regions", str(tokyo.config), "--json").stdout)
    assert listed["regions"] == [], "lima follows paris: tokyo keeps nothing for it"


def test_a_half_copy_whose_moment_is_gone_is_begun_anew(started: Callable[..., Region]) -> None:
    paris = started("paris", "primary", EMBEDDED)
    paris.reach_sequence("applied", 1)
    fill(paris, 0, 30)
    tokyo = started("tokyo", "replica", follow(paris.url) + sqlite_replica(), start=False)

    def rows() -> int:
        path = tokyo.directory / "ledger.db"
        if not path.exists():
            return 0
        reader = SqliteReader(path)
        try:
            return sum(1 for table in reader.tables() for _ in reader.rows(table.label))
        finally:
            reader.close()

    kill_half_way(tokyo, "--rate", "100", rows=rows)
    paris.kill()
    paris.start()
    paris.reach_sequence("applied", 31)
    fill(paris, 100_000, 2)
    done = bootstrap(tokyo, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 32 * 20
    tokyo.start()
    tokyo.reach_calm()
    assert_equal(tokyo)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_from_a_postgres_primary(started: Callable[..., Region], new_database: Callable[[], str], kind: str) -> None:
    """Binary rows, a table without a key, a changed table, sequences; the replica is verified, then another one is made
    from it."""
    source = new_database()
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE accounts (id bigserial PRIMARY KEY, name text, paid numeric(12,2), at timestamptz)"
        )
        connection.execute("CREATE TABLE events (what text, weight double precision)")
        connection.execute(
            "INSERT INTO accounts (name, paid, at) SELECT 'n' || i, i / 7.0, now() FROM generate_series(1, 3000) AS i"
        )
        connection.execute("INSERT INTO events SELECT 'e' || i % 10, 'NaN' FROM generate_series(1, 50) AS i")
    paris = started("paris", "primary", postgres_source(source, slot=f"slot_{kind}"))
    paris.reach_sequence("settled", 1)
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("ALTER TABLE accounts ADD COLUMN note text DEFAULT 'none'")
        connection.execute("UPDATE accounts SET note = NULL, name = E'a\\tb\\\\' WHERE id = 7")
    targets = [postgres_replica(new_database()) if kind == "postgres" else sqlite_replica() for _ in range(2)]
    lima = started("lima", "replica", follow(paris.url) + targets[0], start=False)
    done = bootstrap(lima)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("DELETE FROM accounts WHERE id % 5 = 0")
        connection.execute("INSERT INTO events VALUES ('later', '-0')")
        connection.execute("INSERT INTO accounts (name) VALUES ('new')")
    lima.start()
    lima.reach_calm()
    assert_equal(lima)
    tokyo = started("tokyo", "replica", follow(paris.url) + targets[1], start=False)
    done = bootstrap(tokyo, "--from", lima.url)
    assert done.returncode == 0, done.stderr
    tokyo.start()
    tokyo.reach_calm()
    assert_equal(lima, tokyo)
    assert not troubles(tokyo.status() or {"strands": []})
    assert sequence(tokyo.status() or {}, "applied") > 1
    if kind == "sqlite":
        reader = SqliteReader(tokyo.directory / "ledger.db")
        values = {(each.namespace, each.name): each.value for each in reader.sequences()}
        reader.close()
        assert values["public", "accounts_id_seq"] >= 3001


def test_postgres_regions_prune_and_stay_verifiable(
    started: Callable[..., Region], new_database: Callable[[], str]
) -> None:
    """Also the replica's own journal, up to what its server has on disk; after its sidecar was killed it goes on."""
    source = new_database()
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("CREATE TABLE accounts (id bigint PRIMARY KEY, note text)")
    paris = started("paris", "primary", postgres_source(source, slot="slot_pruned") + SMALL)
    paris.reach_sequence("settled", 1)
    lima = started("lima", "replica", follow(paris.url) + postgres_replica(new_database()) + SMALL)
    lima.reach_sequence("applied", 1)
    with psycopg.connect(source, autocommit=True) as connection:
        for number in range(150):
            connection.execute("INSERT INTO accounts VALUES (%s, %s)", [number, "x" * 2000])
            if number in (60, 100):  # what is stored together is one page, and pruned together: no page spans these
                lima.reach_sequence("settled", number + 2)
    for region in (paris, lima):
        reach_journal(region, lambda kept: int(str(kept.get("begins_behind", 0))) > 50, "pruned")
    lima.kill()
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("DELETE FROM accounts WHERE id % 3 = 0")
    lima.start()
    lima.reach_calm()
    assert_equal(lima)
    for region in (paris, lima):
        done = run_verb("journal", "verify", str(region.config), "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout)[0]["begins_behind"] > 50
    assert paris.stop() == 0
    compacted = run_verb("journal", "compact", str(paris.config))
    assert compacted.returncode == 0, compacted.stderr
    assert "MB now" in compacted.stdout
    paris.start()
    paris.reach_calm()
    assert run_verb("journal", "compact", str(paris.config)).returncode == 2, "not while the sidecar runs"
