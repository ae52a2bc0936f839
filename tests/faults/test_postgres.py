"""PostgreSQL as it can be met: wrongly set up, gone and back, tampered with. Each is named or waited for.

Nothing is lost by any of it.
One server of its own, which is killed and restarted; each test has its own databases and sidecars.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.sidecars import sequence
from tests.faults.regions import Region, assert_equal, follow, postgres_replica, postgres_source, run_verb, troubles
from tests.servers import Postgres, free_port

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("faults") / "server")
    server.create()
    server.start()
    yield server
    server.stop()


def open_database(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True)


class Pair:
    """A PostgreSQL primary, and a region on PostgreSQL that follows it."""

    def __init__(self, server: Postgres, directory: Path, rows: int) -> None:
        number = next(_numbers)
        self.primary_dsn = server.create_database(f"primary_{number}")
        self.replica_dsn = server.create_database(f"replica_{number}")
        with open_database(self.primary_dsn) as db:
            db.execute("CREATE TABLE wallet (id int PRIMARY KEY, user_id text, balance int, note text)")
            db.execute(
                "INSERT INTO wallet SELECT n, 'u' || n %% 9, n, repeat('x', 200) FROM generate_series(1, %s) n", [rows]
            )
        slot = f"slot_{number}"
        self.paris = Region(directory, "paris", "primary", postgres_source(self.primary_dsn, slot=slot))
        self.lima = Region(directory, "lima", "replica", follow(self.paris.url) + postgres_replica(self.replica_dsn))
        self.slot = slot

    def start(self) -> None:
        self.paris.start()
        self.lima.start()

    def write(self, first: int, count: int) -> None:
        with open_database(self.primary_dsn) as db:
            for number in range(first, first + count):
                db.execute("INSERT INTO wallet VALUES (%s, 'u', 0, '')", [number])

    def rows(self) -> int:
        with open_database(self.replica_dsn) as db:
            (count,) = db.execute("SELECT count(*) FROM wallet").fetchone() or (0,)
        return int(count)

    def reach_rows(self, count: int) -> None:
        """Wait until the replica has them; before the first block there is no table."""

        def is_there(status: object) -> bool:
            try:
                return self.rows() >= count
            except (psycopg.errors.UndefinedTable, psycopg.OperationalError):
                return False

        self.lima.reach(is_there, f"{count} rows", 60)

    def end(self) -> None:
        self.paris.end()
        self.lima.end()


@pytest.fixture
def pair(server: Postgres, tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(server, tmp_path, 50)
    pair.start()
    pair.reach_rows(50)
    yield pair
    pair.end()


def test_a_primary_that_cannot_be_followed_is_named(server: Postgres, tmp_path: Path) -> None:
    """Not reachable and wal_level are waited for; a missing privilege and database halt. Nothing that waits is lost."""
    with server.connect() as db:
        db.execute("CREATE ROLE nobody_much LOGIN")
    plain = Postgres(tmp_path / "plain", {"wal_level": "replica"})
    plain.create()
    plain.start()
    cases = [
        (f"host=127.0.0.1 port={free_port()} dbname=x user=x", "postgres_unreachable", "waiting"),
        (server.dsn("postgres", "nobody_much"), "missing_privilege", "halted"),
        (server.dsn("not_there"), "no_such_database", "halted"),
        (plain.dsn(), "wal_level", "waiting"),
    ]
    regions = []
    try:
        for number, (dsn, reason, _) in enumerate(cases):
            regions.append(Region(tmp_path, f"{reason}{number}", "primary", postgres_source(dsn, slot="named")))
            regions[-1].start()
        for region, (_, reason, condition) in zip(regions, cases, strict=True):
            trouble = region.trouble(reason, condition=condition)
            assert trouble["cure"]
            assert "127.0.0.1" in trouble["place"] or trouble["place"]
            told = run_verb("preflight", str(region.config))
            assert told.returncode == 1, told.stdout
            assert region.stop() == 0
    finally:
        for region in regions:
            region.end()
        plain.stop()


def test_both_databases_die_and_return(server: Postgres, pair: Pair) -> None:
    """Primary and replica, on one server, at once; on a quiet ledger, too, the status shows that it is over."""
    server.kill()
    pair.paris.trouble("postgres_unreachable", condition="waiting")
    server.start()
    pair.paris.reach_calm()
    pair.write(100, 5)
    pair.reach_rows(55)
    pair.lima.reach_calm()
    assert_equal(pair.lima)


def test_the_database_dies_during_the_first_copy(server: Postgres, tmp_path: Path) -> None:
    """At several moments of it, and its sidecar once as well; the copy begins again and is whole."""
    pair = Pair(server, tmp_path, 60_000)
    try:
        pair.start()
        pair.paris.reach(lambda status: status["source"]["phase"] in ("copying", "streaming"), "the copy", 20)
        server.kill()
        server.start()
        pair.paris.reach(lambda status: status["source"]["phase"] in ("copying", "streaming"), "the copy again", 30)
        pair.paris.kill()
        server.kill()
        pair.paris.start()
        server.start()
        pair.write(100_001, 3)
        pair.reach_rows(60_003)
        assert_equal(pair.lima)
    finally:
        pair.end()


def test_a_slot_that_is_gone_or_ahead_halts(server: Postgres, pair: Pair) -> None:
    assert pair.paris.stop() == 0
    pair.write(200, 3)
    with open_database(pair.primary_dsn) as db:
        db.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [pair.slot])
    pair.paris.start()
    trouble = pair.paris.trouble("slot_ahead", condition="halted")
    assert pair.slot in trouble["place"]
    assert "begin a new history" in trouble["cure"]
    assert pair.paris.ask("/health").status_code == 503
    assert pair.paris.stop() == 0
    with open_database(pair.primary_dsn) as db:
        db.execute("SELECT pg_drop_replication_slot(%s)", [pair.slot])
    pair.paris.start()
    assert pair.slot in pair.paris.trouble("slot_missing", condition="halted")["place"]


def test_a_replica_that_somebody_else_writes_to(pair: Pair) -> None:
    """A lock that is held is a visible wait; rows changed by hand are counted when they are met, and verify names the
    keys; a column taken away halts."""
    with psycopg.connect(pair.replica_dsn) as held:
        held.execute("LOCK TABLE wallet IN ACCESS EXCLUSIVE MODE")
        pair.write(300, 1)
        trouble = pair.lima.trouble("replica_locked", condition="waiting")
        assert "pg_locks" in trouble["cure"]
        held.rollback()
    pair.reach_rows(51)
    pair.lima.reach_calm()
    with open_database(pair.replica_dsn) as db:
        db.execute("DELETE FROM wallet WHERE id = 1")
        db.execute("UPDATE wallet SET balance = -1 WHERE id = 2")
        db.execute("INSERT INTO wallet VALUES (400, 'by hand', 0, ''), (999, 'by hand', 0, '')")
    told = run_verb("verify", "--json", str(pair.lima.config))
    assert told.returncode == 16, told.stdout + told.stderr
    for key in ("1", "2", "400", "999"):
        assert f'"{key}"' in told.stdout
    pair.write(400, 1)
    with open_database(pair.primary_dsn) as db:
        db.execute("DELETE FROM wallet WHERE id = 1")
        db.execute("UPDATE wallet SET balance = 7 WHERE id = 2")
    pair.lima.reach(lambda status: status["replica"]["drifted_rows"] == 2, "two drifted rows", 20)
    told = run_verb("verify", "--json", str(pair.lima.config))
    assert told.returncode == 16, "999 is there still"
    assert '"999"' in told.stdout
    assert '"400"' not in told.stdout
    with open_database(pair.replica_dsn) as db:
        db.execute("DELETE FROM wallet WHERE id = 999")
        db.execute("ALTER TABLE wallet DROP COLUMN balance")
    assert run_verb("verify", str(pair.lima.config)).returncode in (16, 32)
    pair.write(500, 1)
    assert "wallet" in str(pair.lima.trouble("replica_table_differs", condition="halted"))
    assert pair.lima.stop() == 0
    with open_database(pair.replica_dsn) as db:
        db.execute("ALTER TABLE wallet ADD COLUMN balance int")
        db.execute("DELETE FROM replicator.position")
        db.execute("DROP TABLE wallet; DELETE FROM replicator.definition")
    pair.lima.start()
    pair.reach_rows(51)
    assert_equal(pair.lima)


def test_a_table_with_other_columns_is_refused_and_left_alone(server: Postgres, tmp_path: Path) -> None:
    pair = Pair(server, tmp_path, 3)
    with open_database(pair.replica_dsn) as db:
        db.execute("CREATE TABLE wallet (id text PRIMARY KEY, mine text)")
        db.execute("INSERT INTO wallet VALUES ('a', 'b')")
    try:
        pair.start()
        pair.lima.reach(lambda status: any(t["condition"] == "halted" for t in troubles(status)), "halted", 30)
        status = pair.lima.status()
        assert status is not None
        (trouble,) = (trouble for trouble in troubles(status) if trouble["condition"] == "halted")
        assert trouble["stage"] == "apply"
        assert "wallet" in trouble["place"] + trouble["message"]
        assert trouble["cure"]
        assert sequence(status, "settled") > 0, "what came is kept"
        assert pair.rows() == 1
        assert pair.lima.stop() == 0
        with open_database(pair.replica_dsn) as db:
            db.execute("DROP TABLE wallet")
        pair.lima.start()
        pair.reach_rows(3)
        assert_equal(pair.lima)
    finally:
        pair.end()
