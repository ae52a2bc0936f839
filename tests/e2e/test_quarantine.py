"""A hand-made constraint in each replica refuses a change: the region goes on without it, and gets it once it is cured.

A PostgreSQL primary, a PostgreSQL and a SQLite region, real processes, and the command line as an operator uses it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.sidecars import postgres_rows, sqlite_rows
from tests.faults.regions import (
    Region,
    assert_equal,
    follow,
    postgres_replica,
    postgres_source,
    run_verb,
    sqlite_replica,
)
from tests.servers import Postgres

SETS_ASIDE = '[replay]\non_error = "quarantine"\nquarantine_limit = 5\n\n'
Rows = dict[str | None, str | None]


class Chain:
    """The primary and its two regions, with what somebody may do to each replica by hand."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.dsn = server.create_database("quarantine_e2e")
        self.replica_dsn = server.create_database("quarantine_e2e_replica")
        self.paris = Region(directory, "paris", "primary", postgres_source(self.dsn, slot="quarantine_e2e"))
        follows = SETS_ASIDE + follow(self.paris.url)
        self.lima = Region(directory, "lima", "replica", follows + postgres_replica(self.replica_dsn))
        self.tokyo = Region(directory, "tokyo", "replica", follows + sqlite_replica())
        self.regions = [self.paris, self.lima, self.tokyo]

    def do(self, *statements: str) -> None:
        """One transaction of the primary."""
        with psycopg.connect(self.dsn) as db:
            for statement in statements:
                db.execute(statement.encode())

    def by_hand(self, region: Region, postgres: str, sqlite: str) -> None:
        if region is self.lima:
            with psycopg.connect(self.replica_dsn) as db:
                db.execute(postgres.encode())
            return
        with sqlite3.connect(region.directory / "ledger.db", timeout=30) as lite:
            lite.executescript(sqlite)
        lite.close()

    def refuse(self, region: Region) -> None:
        """No balance below zero from here on."""
        triggers = "".join(
            f"CREATE TRIGGER no_debt_{event} BEFORE {event} ON wallets WHEN NEW.balance < 0"
            " BEGIN SELECT RAISE(ABORT, 'no debt here'); END;"
            for event in ("INSERT", "UPDATE")
        )
        self.by_hand(region, "ALTER TABLE wallets ADD CONSTRAINT no_debt CHECK (balance >= 0)", triggers)

    def allow(self, region: Region) -> None:
        drop = "DROP TRIGGER no_debt_INSERT; DROP TRIGGER no_debt_UPDATE;"
        self.by_hand(region, "ALTER TABLE wallets DROP CONSTRAINT no_debt", drop)

    def rows(self, region: Region) -> Rows:
        columns = ["id", "balance"]
        if region is self.lima:
            rows = postgres_rows(self.replica_dsn, "wallets", columns)
        else:
            rows = sqlite_rows(region.directory / "ledger.db", "wallets", columns)
        return {id: balance for id, balance in rows}  # noqa: C416  # as dict(), it has no type


@pytest.fixture(scope="module")
def chain(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    chain = Chain(postgres, tmp_path_factory.mktemp("quarantine"))
    chain.do(
        "CREATE TABLE wallets (id text PRIMARY KEY, balance int)",
        "INSERT INTO wallets VALUES ('w1', 10), ('w2', 10), ('w3', 10)",
    )
    for region in chain.regions:
        region.start()
    for region in (chain.lima, chain.tokyo):
        region.reach(lambda status: status["ready"], "ready")
    yield chain
    for region in chain.regions:
        region.end()


def quarantine(region: Region, *arguments: str, code: int = 0) -> str:
    verb, *rest = arguments
    done = run_verb("quarantine", verb, str(region.config), *rest)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["lima", "tokyo"])
def test_refused_held_cured_and_equal(chain: Chain, name: str) -> None:
    region: Region = getattr(chain, name)
    chain.do("UPDATE wallets SET balance = 10")
    region.reach(lambda status: not status["strands"][0]["lag"]["blocks"], "the head")
    assert_equal(region)
    chain.refuse(region)

    chain.do("UPDATE wallets SET balance = -1 WHERE id = 'w1'", "UPDATE wallets SET balance = 12 WHERE id = 'w2'")
    chain.do("UPDATE wallets SET balance = -2 WHERE id = 'w1'", "UPDATE wallets SET balance = 13 WHERE id = 'w3'")
    region.reach(lambda status: status["strands"][0]["quarantined_statements"] == 2, "two statements set aside")
    assert chain.rows(region) == {"w1": "10", "w2": "12", "w3": "13"}

    done = run_verb("status", str(region.config))
    assert done.returncode == 0, "the region goes on"
    assert "2 statements are set aside, and readers do not see what they do: wallets (1 key)" in " ".join(
        done.stdout.split()
    )
    assert "2 statements are set aside" in region.ask("/").text
    assert region.metric("replicator_quarantined_statements") == 2
    assert run_verb("verify", str(region.config)).returncode == 16

    region.kill()
    region.start()
    region.reach(lambda status: status["strands"][0]["quarantined_statements"] == 2, "still two after a kill")
    chain.do("UPDATE wallets SET balance = -3 WHERE id = 'w1'", "UPDATE wallets SET balance = 33 WHERE id = 'w3'")
    region.reach(lambda status: status["strands"][0]["quarantined_statements"] == 3, "a third one waits")
    assert chain.rows(region) == {"w1": "10", "w2": "12", "w3": "33"}

    listed = quarantine(region, "list")
    assert "3 statements are set aside, 1 key waits" in listed
    assert "update wallets w1" in listed
    assert "[replica_refused_row]" in listed
    assert listed.count("[held]") == 2
    first = json.loads(quarantine(region, "list", "--json"))["statements"][0]
    shown = quarantine(region, "show", str(first["sequence"]), str(first["ordinal"]))
    assert "balance = -1" in shown
    assert f"block {first['sequence']:,}, epoch 1, 2 statements" in shown

    refused = quarantine(region, "replay", code=1)
    assert "refused: wallets w1: 3 statements" in refused
    assert "dry run, nothing was changed" in refused
    chain.allow(region)
    assert "would be replayed: wallets w1: 3 statements" in quarantine(region, "replay", "--table", "wallets")
    assert chain.rows(region)["w1"] == "10", "a dry run changes nothing"
    assert run_verb("verify", str(region.config)).returncode == 16

    told = quarantine(region, "replay", "--key", "w1", "--apply", "--who", "ann")
    assert "replayed: 3 statements" in told
    assert chain.rows(region) == {"w1": "-3", "w2": "12", "w3": "33"}
    assert_equal(region)
    region.reach(lambda status: status["strands"][0]["quarantined_statements"] == 0, "nothing set aside")
    assert "nothing is set aside" in quarantine(region, "list")
    assert quarantine(region, "list", "--closed").count("replayed by ann: replayed once cured") == 3
    chain.do("UPDATE wallets SET balance = 1 WHERE id = 'w1'")
    region.reach(lambda status: not status["strands"][0]["lag"]["blocks"], "the head")
    assert_equal(region)


def test_a_statement_is_dropped_with_name_and_reason(chain: Chain) -> None:
    region = chain.tokyo
    chain.refuse(region)
    chain.do("UPDATE wallets SET balance = -9 WHERE id = 'w2'")
    region.reach(lambda status: status["strands"][0]["quarantined_statements"] == 1, "one statement set aside")
    (one,) = json.loads(quarantine(region, "list", "--json"))["statements"]
    place = (str(one["sequence"]), str(one["ordinal"]))
    told = quarantine(region, "drop", *place, "--who", "bob", "--reason", "put right at the primary")
    assert f"dropped: sequence {place[0]}, ordinal {place[1]}" in told
    done = run_verb("quarantine", "drop", str(region.config), *place, "--reason", "again")
    assert done.returncode == 1
    assert "[closed]" in done.stderr
    assert "dropped by bob: put right at the primary" in quarantine(region, "list", "--closed")
    chain.do("UPDATE wallets SET balance = 9 WHERE id = 'w2'")
    region.reach(lambda status: not status["strands"][0]["lag"]["blocks"], "the head")
    chain.allow(region)
    assert_equal(region)


def test_beyond_its_limit_the_region_halts_and_replays_all_the_same(chain: Chain) -> None:
    """Seven rows are refused, five may be set aside: it halts. Cured and replayed while it is halted, it goes on."""
    region = chain.lima
    chain.refuse(region)
    chain.do(*(f"INSERT INTO wallets VALUES ('d{number}', -1)" for number in range(3)))
    region.reach(lambda status: status["strands"][0]["quarantined_statements"] == 3, "three statements set aside")
    chain.do(*(f"INSERT INTO wallets VALUES ('e{number}', -1)" for number in range(4)))
    trouble = region.trouble("quarantine_full", condition="halted")
    assert "5 statements are set aside already" in trouble["message"]
    chain.allow(region)
    told = quarantine(region, "replay", "--apply")
    assert "replayed: 3 statements" in told
    assert region.stop() == 0
    region.start()
    region.reach(lambda status: status["ready"], "ready")
    assert_equal(region)


def test_the_primary_says_that_it_sets_nothing_aside(chain: Chain) -> None:
    done = run_verb("quarantine", str(chain.paris.config))
    assert done.returncode == 1
    assert "it replays nothing" in done.stderr
