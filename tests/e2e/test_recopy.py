"""A table that cannot be carried on is copied anew by the printed cure, while everything else goes on."""

from __future__ import annotations

import itertools
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.sidecars import sequence
from tests.faults.regions import (
    Region,
    assert_equal,
    follow,
    postgres_replica,
    postgres_source,
    run_verb,
    sqlite_replica,
    troubles,
)
from tests.servers import Postgres, postgres_bin

_numbers = itertools.count(1)
COMMAND = re.compile(r"replicator (recopy CONFIG \S+?);")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("recopy") / "server")
    server.create()
    server.start()
    yield server
    server.stop()


class Three:
    """A primary, a replica in PostgreSQL and one in SQLite, and somebody who writes to another table all the while."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        number = next(_numbers)
        self.dsn = server.create_database(f"recopy_{number}")
        self.copy_dsn = server.create_database(f"recopied_{number}")
        self.sql(
            "CREATE TABLE wallets (id int PRIMARY KEY, owner text, balance int)",
            "CREATE TABLE others (id serial PRIMARY KEY, n int)",
            "INSERT INTO wallets SELECT n, 'u' || n, n FROM generate_series(1, 500) n",
        )
        self.paris = Region(directory, "paris", "primary", postgres_source(self.dsn, slot=f"recopy_{number}"))
        self.lima = Region(directory, "lima", "replica", follow(self.paris.url) + postgres_replica(self.copy_dsn))
        self.tokyo = Region(directory, "tokyo", "replica", follow(self.paris.url) + sqlite_replica())
        self.regions = [self.paris, self.lima, self.tokyo]
        self._ends = threading.Event()
        self._writer = threading.Thread(target=self._write)

    def sql(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as session:
            for statement in statements:
                session.execute(statement.encode())

    def _write(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as session:
            for number in itertools.count():
                if self._ends.wait(0.02):
                    return
                session.execute("INSERT INTO others (n) VALUES (%s)", [number])

    def start(self) -> None:
        for region in self.regions:
            region.start()
        for region in self.regions[1:]:
            region.reach_sequence("applied", 1)
        self._writer.start()

    def end(self) -> None:
        self._ends.set()
        if self._writer.is_alive():
            self._writer.join()
        for region in self.regions:
            region.end()

    def settle(self) -> None:
        """Nobody writes any more, and all are equal."""
        self._ends.set()
        self._writer.join()
        with psycopg.connect(self.dsn, autocommit=True) as session:
            (lsn,) = session.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("",)
        self.paris.reach(lambda status: _lsn(status["source"]["seen"]) >= _lsn(lsn), "all read", 60)
        head = sequence(self.paris.status() or {}, "settled")
        for region in self.regions[1:]:
            region.reach_sequence("applied", head)
        assert_equal(self.lima, self.tokyo)

    def cure(self, reason: str) -> subprocess.CompletedProcess[str]:
        """Carry out the command that the halt prints."""
        cure = self.paris.trouble(reason, condition="halted")["cure"]
        found = COMMAND.search(cure)
        assert found is not None, cure
        return run_verb(*(str(self.paris.config) if word == "CONFIG" else word for word in found[1].split()))


def _lsn(text: str | None) -> int:
    high, _, low = (text or "0/0").partition("/")
    return int(high, 16) << 32 | int(low, 16)


@pytest.fixture
def three(server: Postgres, tmp_path: Path) -> Iterator[Three]:
    made = Three(server, tmp_path)
    yield made
    made.end()


CASES: dict[str, tuple[str, list[str]]] = {
    "dropped and made again": (
        "table_replaced",
        [
            "DROP TABLE wallets",
            "CREATE TABLE wallets (owner text PRIMARY KEY, balance numeric, opened timestamptz DEFAULT now())",
            "INSERT INTO wallets SELECT 'v' || n, n / 7.0 FROM generate_series(1, 300) n",
        ],
    ),
    "another key": (
        "key_changed",
        ["ALTER TABLE wallets DROP CONSTRAINT wallets_pkey, ADD PRIMARY KEY (id, balance)"],
    ),
    "another type": (
        "type_changed",
        ["ALTER TABLE wallets ALTER balance TYPE text USING 'EUR ' || balance"],
    ),
    "a volatile default": (
        "column_rewritten",
        ["ALTER TABLE wallets ADD COLUMN token text NOT NULL DEFAULT md5(random()::text)"],
    ),
    "renamed": ("table_renamed", ["ALTER TABLE wallets RENAME TO purses"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_printed_cure_brings_the_table_back_everywhere(three: Three, case: str) -> None:
    reason, statements = CASES[case]
    table = "purses" if case == "renamed" else "wallets"
    three.start()
    three.sql("UPDATE wallets SET balance = balance + 1 WHERE id < 50")
    three.sql(*statements)
    three.sql(f"UPDATE {table} SET balance = balance WHERE true", f"DELETE FROM {table} WHERE owner LIKE '%9'")
    done = three.cure(reason)
    assert done.returncode == 0, done.stdout + done.stderr
    three.paris.reach(lambda status: not troubles(status), "it captures again", 60)
    three.sql(f"DELETE FROM {table} WHERE owner LIKE '%8'")
    three.settle()


def test_killed_in_the_midst_of_it_it_is_done_again(three: Three, server: Postgres) -> None:
    """Held at its beginning by an open transaction, for which the slot waits; then SIGKILL."""
    three.start()
    with psycopg.connect(three.dsn) as holder:
        holder.execute("INSERT INTO others (n) VALUES (-1)")
        three.sql("UPDATE wallets SET balance = -1 WHERE id = 1")
        asked = run_verb("recopy", str(three.paris.config), "public.wallets")
        assert asked.returncode == 0, asked.stdout + asked.stderr
        three.paris.reach(lambda status: status["source"]["phase"] == "copying", "it copies", 30)
        three.paris.kill()
        three.paris.start()
        three.paris.reach(lambda status: status["source"]["phase"] == "copying", "it copies again", 30)
    three.paris.reach(lambda status: status["source"]["phase"] == "streaming", "it goes on", 60)
    three.settle()


def test_what_is_no_published_table_is_refused(three: Three) -> None:
    three.start()
    for region, table, reason in ((three.paris, "nobody", "unknown_table"), (three.lima, "wallets", "not_captured")):
        refused = run_verb("recopy", str(region.config), table)
        assert refused.returncode == 1
        assert reason in refused.stderr


def test_restored_by_pg_restore(three: Three, tmp_path: Path) -> None:
    """``pg_restore --clean`` drops and makes anew; every table of the dump is named."""
    dump = tmp_path / "dump"

    def tools(name: str, *arguments: str) -> None:
        subprocess.run([str(postgres_bin() / name), *arguments], check=True, capture_output=True, timeout=60)

    tools("pg_dump", "-Fc", "-t", "wallets", "-f", str(dump), three.dsn)
    three.start()
    three.sql("DELETE FROM wallets WHERE id > 100")
    tools("pg_restore", "--clean", "-d", three.dsn, str(dump))
    done = three.cure("table_replaced")
    assert done.returncode == 0, done.stdout + done.stderr
    three.paris.reach(lambda status: not troubles(status), "it captures again", 60)
    three.settle()


def test_a_table_that_took_the_name_of_another_one_stays_when_that_one_is_copied(three: Three) -> None:
    """A new table is built and takes the old one's name: by one printed cure after the other both are whole."""
    three.start()
    three.sql(
        "ALTER TABLE wallets RENAME TO wallets_before",
        "CREATE TABLE wallets (id int PRIMARY KEY, owner text, balance int)",
        "INSERT INTO wallets SELECT n, 'new' || n, n FROM generate_series(1, 300) n",
    )
    for reason in ("table_replaced", "table_renamed"):
        done = three.cure(reason)
        assert done.returncode == 0, done.stdout + done.stderr
    three.paris.reach(lambda status: not troubles(status), "it captures again", 60)
    three.settle()
    with psycopg.connect(three.copy_dsn) as session:
        assert session.execute("SELECT count(*) FROM wallets").fetchone() == (300,)


def test_of_another_database_nothing_is_copied(three: Three, server: Postgres) -> None:
    """It has a table of that name, and the publication: as a dump that was restored elsewhere has."""
    three.start()
    other = server.create_database(f"recopy_elsewhere_{next(_numbers)}")
    with psycopg.connect(other, autocommit=True) as session:
        session.execute("CREATE TABLE wallets (id int PRIMARY KEY, owner text, balance int)")
        session.execute("INSERT INTO wallets VALUES (1, 'a stranger', 7)")
        session.execute("CREATE PUBLICATION replicator FOR ALL TABLES WITH (publish_via_partition_root = true)")
    three.paris.end()
    three.paris.config.write_text(three.paris.config.read_text().replace(three.dsn, other))
    three.paris.start()
    three.paris.trouble("other_database", condition="halted")
    head = sequence(three.paris.status() or {}, "settled")
    run_verb("recopy", str(three.paris.config), "public.wallets")
    three.paris.end()
    three.paris.start()  # what was asked for is noted; this start has it from its beginning
    three.paris.trouble("other_database", condition="halted")
    assert sequence(three.paris.status() or {}, "settled") == head
