"""Rewriting from a PostgreSQL ledger's journal: TOASTed values, every built-in type, key changes, columns that change,
tables without a key; into both kinds of replica."""

from __future__ import annotations

import datetime
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.e2e.deployment import lsn_number
from tests.e2e.sidecars import sequence
from tests.faults.regions import (
    Region,
    assert_equal,
    follow,
    postgres_replica,
    postgres_source,
    run_verb,
    sqlite_replica,
)
from tests.pipeline.replicas.test_types import TYPES, VALUES


class Chain:
    """A PostgreSQL primary and its two regions."""

    def __init__(self, directory: Path, new_database: Callable[[], str]) -> None:
        self.dsn, self.replica_dsn = new_database(), new_database()
        slot = self.dsn.split("dbname=")[1].split()[0]
        self.paris = Region(directory, "paris", "primary", postgres_source(self.dsn, slot=slot))
        self.lima = Region(directory, "lima", "replica", follow(self.paris.url) + postgres_replica(self.replica_dsn))
        self.tokyo = Region(directory, "tokyo", "replica", follow(self.paris.url) + sqlite_replica())
        self.replicas = [self.lima, self.tokyo]

    def do(self, *statements: str | sql.Composed) -> None:
        """Each in a transaction of its own."""
        with psycopg.connect(self.dsn, autocommit=True) as db:
            for statement in statements:
                db.execute(statement.encode() if isinstance(statement, str) else statement)

    def damage(self, *statements: str) -> None:
        """By hand, in both replicas."""
        with psycopg.connect(self.replica_dsn, autocommit=True) as db:
            for statement in statements:
                db.execute(statement.encode())
        with sqlite3.connect(self.tokyo.directory / "ledger.db", timeout=10, isolation_level=None) as lite:
            for statement in statements:
                lite.execute(statement)
        lite.close()

    def converge(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as db:
            row = db.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            db.execute("SELECT pg_logical_emit_message(true, 'end', '')")
        assert row is not None
        end = lsn_number(row[0])
        self.paris.reach(lambda status: lsn_number(status["source"]["stored"] or "0/0") >= end, "the log's end")
        head = sequence(self.paris.status() or {}, "settled")
        for replica in self.replicas:
            replica.reach_sequence("applied", head)


BEFORE = """
CREATE TABLE notes (id int PRIMARY KEY, user_id text, body text, goes int DEFAULT 5);
ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO notes SELECT n, 'u' || n % 3, repeat('x' || n, 3000), n FROM generate_series(1, 30) n;
CREATE TABLE logged (who text, what text);
INSERT INTO logged SELECT 'early', n::text FROM generate_series(1, 20) n;
CREATE TABLE emptied (a int, b text, v numeric, PRIMARY KEY (b, a));
INSERT INTO emptied SELECT n, 'b', n FROM generate_series(1, 10) n;
"""


@pytest.fixture
def chain(new_database: Callable[[], str], tmp_path: Path) -> Iterator[Chain]:
    made = Chain(tmp_path, new_database)
    made.do(BEFORE, TYPES)
    with psycopg.connect(made.replica_dsn) as db:
        db.execute(TYPES)
    for region in (made.paris, *made.replicas):
        region.start()
    made.paris.reach(lambda status: (status["source"] or {})["phase"] == "streaming", "streaming")
    made.converge()
    yield made
    for region in (made.paris, *made.replicas):
        region.end()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def asked(code: int, *arguments: str) -> Any:
    done = run_verb(*arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_everything_in_the_span(chain: Chain) -> None:
    since = now()
    chain.do(
        "UPDATE notes SET user_id = 'patched' WHERE id IN (1, 2)",
        "UPDATE notes SET id = id + 100 WHERE id IN (3, 4)",  # the long value is not sent again
        "DELETE FROM notes WHERE id IN (5, 6)",
        "INSERT INTO notes VALUES (6, 'again', 'short', 1)",
        "BEGIN; TRUNCATE emptied; INSERT INTO emptied VALUES (1, 'c', 1.50); COMMIT",
        "INSERT INTO logged SELECT 'late', n::text FROM generate_series(1, 20) n",
        "ALTER TABLE notes ADD COLUMN more text DEFAULT 'older'",
        "ALTER TABLE notes RENAME COLUMN user_id TO owner",
        "ALTER TABLE notes DROP COLUMN goes",
        "INSERT INTO notes VALUES (200, 'new', 'n', 'm')",
        "UPDATE notes SET owner = 'patched again' WHERE id IN (7, 103)",
    )
    chain.converge()
    for replica in chain.replicas:
        plan = asked(0, "resync", str(replica.config), "--from", since, "--plan")["job"]
        assert (plan["conflicts"], plan["unknown"]) == (0, 0), "what replay wrote is what the journal says"
    emptied = "INSERT INTO emptied (a, b, v) VALUES (3, 'b', 3)"
    chain.damage(
        "UPDATE notes SET body = 'cut off' WHERE id IN (1, 7, 103)",
        "DELETE FROM notes WHERE id IN (2, 200)",
        "INSERT INTO notes (id, owner) VALUES (3, 'ghost'), (5, 'ghost')",
        "UPDATE notes SET more = 'x' WHERE id = 104",
        "DELETE FROM logged WHERE who = 'late' AND what IN ('3', '4')",
        emptied,
    )
    for replica in chain.replicas:
        told = asked(0, "resync", str(replica.config), "--from", since)
        assert told["job"]["differing"] == 11, told
        assert told["job"]["unknown"] == 0
    chain.damage(
        "UPDATE notes SET body = 'cut off' WHERE id = 103",
        "DELETE FROM notes WHERE id = 10",
        "DELETE FROM logged WHERE what = '7'",
        "UPDATE logged SET who = 'hand' WHERE what = '8'",
        emptied,
    )
    for replica in chain.replicas:
        done = asked(0, "repair", str(replica.config), "--apply")
        states = [key["state"] for key in done["report"]["keys"]]
        assert states == ["differs"] * 7, done
    assert_equal(*chain.replicas)


def test_every_built_in_type_reads_back_as_it_was_written(chain: Chain) -> None:
    """Nothing that replay wrote differs from what the journal says; and what is damaged is written alike."""
    since = now()
    tables = list(enumerate(VALUES.items()))
    for number, (kind, values) in tables:
        chain.do(f"CREATE TABLE typed_{number} (id int PRIMARY KEY, value {kind})")
        rows = sql.SQL(", ").join(
            sql.SQL("({}, {})").format(sql.Literal(place), sql.Literal(value))
            for place, value in enumerate([*values, None])
        )
        chain.do(sql.SQL("INSERT INTO {} VALUES {}").format(sql.Identifier(f"typed_{number}"), rows))
    chain.converge()
    for replica in chain.replicas:
        plan = asked(0, "resync", str(replica.config), "--from", since, "--plan")["job"]
        assert plan["conflicts"] == 0, plan
        assert plan["keys"] > 200
    chain.damage(*(f"UPDATE typed_{number} SET value = NULL" for number, _ in tables))
    for replica in chain.replicas:
        told = asked(0, "resync", str(replica.config), "--from", since)
        assert told["job"]["differing"] == told["job"]["keys"] - len(tables)
    texts = []
    for dsn in (chain.dsn, chain.replica_dsn):
        with psycopg.connect(dsn, options="-c timezone=UTC") as db:
            texts.append(
                [
                    db.execute(f"SELECT id, value::text FROM typed_{number} ORDER BY id".encode()).fetchall()
                    for number, _ in tables
                ]
            )
    assert texts[0] == texts[1]


def test_replay_that_a_missing_row_stopped_is_repaired_by_its_key(chain: Chain) -> None:
    """The row that a patch needs is gone: the strand halts and says what to do; that does it."""
    chain.damage("DELETE FROM notes WHERE id = 1")
    chain.do("UPDATE notes SET user_id = 'patched' WHERE id = 1")
    for replica in chain.replicas:
        trouble = replica.trouble("replica_row_missing", condition="halted")
        assert "repair CONFIG --key" in trouble["cure"]
        done = asked(32, "repair", str(replica.config), "--key", "notes", "1", "--apply")
        assert [key["state"] for key in done["report"]["keys"]] == ["differs"]
        replica.stop()
        replica.start()
    chain.converge()
    assert_equal(*chain.replicas)
