"""K = 1: a writer is answered when another region has its block on disk, not before; and what if none has."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from replicator.format.position import parse_position
from replicator.pipeline.sources.postgres import PostgresOptions, preflight
from replicator.storage.journal.reading import JournalReader
from tests.e2e.sidecars import sequence, sqlite_rows
from tests.faults.regions import EMBEDDED, Region, assert_equal, follow, postgres_source, run_verb, sqlite_replica
from tests.servers import Postgres

UNANSWERED_SECONDS = 1.0  # that a writer is watched for, to say that it is not answered


def failover(**lines: str | int) -> str:
    shown = (f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"' for key, value in lines.items())
    return "[failover]\n" + "\n".join(shown) + "\n\n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[[str], tuple[Region, Region]]]:
    """An embedded primary with a [failover] section, and the replica that follows it."""
    regions: list[Region] = []

    def start(section: str) -> tuple[Region, Region]:
        paris = Region(tmp_path, "paris", "primary", section + EMBEDDED)
        tokyo = Region(tmp_path, "tokyo", "replica", follow(paris.url) + sqlite_replica())
        regions.extend((paris, tokyo))
        for region in regions:
            region.start()
        paris.reach_sequence("applied", 1)
        tokyo.reach_sequence("settled", 1)
        return paris, tokyo

    yield start
    for region in regions:
        region.end()


def send(region: Region, name: str) -> httpx.Response:
    """A transaction whose idempotency key is ``name``."""
    document = {"wallet_id": name, "user_id": "ada"}
    body = {"id": name, "statements": [{"table": "wallets", "op": "insert", "document": document}]}
    return httpx.post(f"{region.url}/v1/transactions", json=body, timeout=30, trust_env=False)


def has(region: Region, answer: httpx.Response) -> bool:
    """Whether the region's journal holds the very block that the writer was told of."""
    position = parse_position(answer.json()["position"])
    journal = JournalReader(region.data / "journal.sqlite3")
    try:
        return journal.position_at(position.strand, position.sequence) == position
    finally:
        journal.close()


def later(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """The outcome of a call in a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *arguments)
    pool.shutdown(wait=False)
    return future


def assert_unanswered(answer: Future[Any]) -> None:
    with pytest.raises(TimeoutError):
        answer.result(UNANSWERED_SECONDS)


def test_a_writer_is_answered_when_another_region_has_its_block(pair: Callable[[str], tuple[Region, Region]]) -> None:
    paris, tokyo = pair(failover(acknowledge=1, acknowledge_timeout="20s"))
    first = send(paris, "first")
    assert (first.status_code, first.json()["acknowledged_by"]) == (200, 1)
    assert has(tokyo, first)
    tokyo.freeze()
    answer = later(send, paris, "second")
    assert_unanswered(answer)
    assert paris.metric("replicator_acknowledge_waiting") == 1
    tokyo.thaw()
    second = answer.result(20)
    assert (second.status_code, second.json()["acknowledged_by"]) == (200, 1)
    assert has(tokyo, second)


def test_who_waited_too_long_sends_again_and_it_is_done_once(pair: Callable[[str], tuple[Region, Region]]) -> None:
    paris, tokyo = pair(failover(acknowledge=1, acknowledge_timeout="500ms"))
    assert send(paris, "first").status_code == 200
    tokyo.freeze()
    refused = send(paris, "second")
    assert (refused.status_code, refused.json()["reason"]) == (503, "outcome_unknown")
    assert refused.headers["Retry-After"]
    again = send(paris, "second")
    assert again.json()["reason"] == "outcome_unknown", "a repetition waits, too"
    tokyo.thaw()
    while (answer := send(paris, "second")).status_code == 503:
        assert answer.json()["reason"] == "outcome_unknown"
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert has(tokyo, answer)
    assert paris.wallets() == 2


def test_a_primary_without_enough_regions_goes_on_loudly_and_comes_back(
    pair: Callable[[str], tuple[Region, Region]],
) -> None:
    paris, tokyo = pair(failover(acknowledge=1, missing="degrade", degrade_after="2s"))
    assert send(paris, "first").json()["acknowledged_by"] == 1
    tokyo.freeze()
    began = time.monotonic()
    second = send(paris, "second")
    assert time.monotonic() - began > 1.9
    assert (second.status_code, second.json()["acknowledged_by"]) == (200, 0)
    assert paris.metric("replicator_acknowledge_degraded") == 1
    assert "DEGRADED" in paris.log()
    assert "DEGRADED" in run_verb("status", str(paris.config)).stdout
    began = time.monotonic()
    assert send(paris, "third").status_code == 200
    assert time.monotonic() - began < 1.9, "who comes while it is degraded does not wait"
    tokyo.thaw()
    paris.reach(lambda _: paris.metric("replicator_acknowledge_degraded") == 0, "restored", 20)
    assert send(paris, "fourth").json()["acknowledged_by"] == 1
    kinds = [event["kind"] for event in paris.ask("/history").json()]
    assert kinds == ["start", "acknowledgement degraded", "acknowledgement restored"]
    tokyo.reach_sequence("applied", 5)
    assert tokyo.wallets() == 4


def test_a_primary_that_dies_loses_nothing_that_it_acknowledged(
    pair: Callable[[str], tuple[Region, Region]],
) -> None:
    """SIGKILL in the midst of many writers."""
    paris, tokyo = pair(failover(acknowledge=1))
    answers: list[httpx.Response] = []

    def write(writer: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            for number in itertools.count():
                answers.append(send(paris, f"{writer}-{number}"))

    with ThreadPoolExecutor(6) as pool:
        for writer in range(6):
            pool.submit(write, writer)
        while len(answers) < 60:
            time.sleep(0.01)  # the writers write
        paris.kill()
    acknowledged = [answer for answer in answers if answer.status_code == 200]
    assert len(acknowledged) >= 60
    assert all(has(tokyo, answer) for answer in acknowledged)


def test_what_no_other_region_has_is_shown(pair: Callable[[str], tuple[Region, Region]]) -> None:
    amount = '[[failover.amounts]]\ntable = "wallets"\ncolumn = "balance"\ncurrency_column = "currency"\n\n'
    paris, tokyo = pair(amount)

    def change(body: dict[str, Any]) -> None:
        done = httpx.post(f"{paris.url}/v1/transactions", json={"statements": [{"table": "wallets", **body}]})
        assert done.status_code == 200, done.text

    def at_risk(blocks: int, amount: float | None) -> None:
        def is_shown(_: object) -> bool:
            shown = paris.metric("replicator_at_risk_blocks"), paris.metric("replicator_at_risk_amount")
            return shown == (blocks, amount) and paris.metric("replicator_at_risk_unknown") == 0

        paris.reach(is_shown, f"{blocks} blocks and {amount} at risk", 20)

    change({"op": "insert", "document": {"wallet_id": "a", "currency": "EUR", "balance": 100}})
    at_risk(0, None)
    tokyo.freeze()
    change({"op": "add", "key": "a", "add": {"balance": -30.5}})
    change({"op": "add", "key": "a", "add": {"balance": 10}})
    at_risk(2, 40.5)
    shown = run_verb("status", str(paris.config)).stdout
    assert "in no other region yet: 2 blocks, 40.50 EUR of wallets" in shown
    paris.kill()
    paris.start()
    paris.reach(lambda _: (paris.metric("replicator_at_risk_blocks") or 0) >= 2, "at risk, if not more", 20)
    tokyo.thaw()
    at_risk(0, None)


# -- PostgreSQL -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    server = Postgres(tmp_path / "server")
    server.create()
    server.start()
    yield server
    server.stop()


def insert(dsn: str, name: str) -> None:
    """A commit, as an application makes it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO wallets VALUES (%s, 'ada')", (name,))


def commit_elsewhere(dsn: str) -> None:
    """A commit of which nothing is published."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS other (n int)")
        connection.execute("INSERT INTO other VALUES (1)")


@pytest.fixture
def standby(tmp_path: Path, server: Postgres) -> Iterator[Callable[[str], tuple[str, Region, Region]]]:
    """A primary on PostgreSQL whose commits wait for it, and the replica that follows it."""
    regions: list[Region] = []

    def start(section: str) -> tuple[str, Region, Region]:
        dsn = server.create_database("ledger")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE wallets (wallet_id text PRIMARY KEY, user_id text)")
        source = postgres_source(dsn, sequences="1h") + 'tables = ["wallets"]\n'
        paris = Region(tmp_path, "paris", "primary", section + source)
        tokyo = Region(tmp_path, "tokyo", "replica", follow(paris.url) + sqlite_replica())
        regions.extend((paris, tokyo))
        for region in regions:
            region.start()
        paris.reach_sequence("settled", 1)
        tokyo.reach_sequence("settled", 1)
        paris.reach(lambda _: paris.metric("replicator_source_waits") == 0, "known that commits do not wait")
        options = PostgresOptions(dsn=dsn, tables=("wallets",), synchronous=True)
        (empty,) = [finding for finding in preflight(options) if "synchronous" in finding.what]
        assert empty.level == "fail"
        with server.connect() as connection:
            for statement in empty.cure.split("; ")[:2]:
                connection.execute(statement.encode())
        paris.reach(lambda _: paris.metric("replicator_source_waits") == 1, "commits wait")
        assert [f.level for f in preflight(options) if "commit" in f.what] == ["ok"]
        return dsn, paris, tokyo

    yield start
    for region in regions:
        region.end()
    with server.connect() as connection:  # so that the server can stop: nothing waits for a standby that is gone
        connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        connection.execute("SELECT pg_reload_conf()")


def test_a_commit_returns_when_another_region_has_it(
    standby: Callable[[str], tuple[str, Region, Region]],
) -> None:
    dsn, paris, tokyo = standby(failover(acknowledge=1))
    insert(dsn, "first")
    tokyo.freeze()
    commit = later(insert, dsn, "second")
    assert_unanswered(commit)
    tokyo.thaw()
    commit.result(20)
    before = time.monotonic()
    for _ in range(8):
        commit_elsewhere(dsn)
    assert time.monotonic() - before < 5, "what holds nothing for us is passed at once"
    # A sidecar that starts confirms nothing that the other region may not have.
    tokyo.freeze()
    commit = later(insert, dsn, "third")
    assert_unanswered(commit)
    paris.kill()
    paris.start()
    paris.reach_sequence("settled", 4)
    assert_unanswered(commit)
    tokyo.thaw()
    commit.result(30)
    tokyo.reach_sequence("applied", 4)
    assert tokyo.wallets() == 3


def test_a_database_and_a_sidecar_that_die_lose_no_commit_that_returned(
    standby: Callable[[str], tuple[str, Region, Region]], server: Postgres
) -> None:
    """SIGKILL of both in the midst of many writers: what returned is in the other region."""
    dsn, paris, tokyo = standby(failover(acknowledge=1))
    returned: list[str] = []

    def write(writer: int) -> None:
        with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as connection:
            for number in itertools.count():
                name = f"{writer}-{number}"
                connection.execute("INSERT INTO wallets VALUES (%s, 'ada')", (name,))
                returned.append(name)

    with ThreadPoolExecutor(6) as pool:
        for writer in range(6):
            pool.submit(write, writer)
        while len(returned) < 60:
            time.sleep(0.01)  # the writers write
        server.kill()
        paris.kill()
    settled = sequence(tokyo.status() or {}, "settled")
    tokyo.reach_sequence("applied", settled)
    assert len(returned) >= 60
    assert set(returned) <= {row[0] for row in sqlite_rows(tokyo.directory / "ledger.db", "wallets", ["wallet_id"])}
    server.start()


def test_commits_go_on_without_enough_regions_where_that_is_chosen(
    standby: Callable[[str], tuple[str, Region, Region]],
) -> None:
    dsn, paris, tokyo = standby(failover(acknowledge=1, missing="degrade", degrade_after="1s"))
    insert(dsn, "first")
    tokyo.kill()
    began = time.monotonic()
    insert(dsn, "second")
    assert time.monotonic() - began > 0.9
    assert paris.metric("replicator_acknowledge_degraded") == 1
    tokyo.start()
    paris.reach(lambda _: paris.metric("replicator_acknowledge_degraded") == 0, "restored", 20)
    insert(dsn, "third")
    tokyo.reach_sequence("applied", 4)
    assert tokyo.wallets() == 3


def test_no_commit_returns_behind_a_change_of_the_publication(
    standby: Callable[[str], tuple[str, Region, Region]], server: Postgres
) -> None:
    """What is committed from then on is in no stream: the commits wait, and the cure that is told makes all whole."""
    dsn, paris, tokyo = standby(failover(acknowledge=1))
    insert(dsn, "first")
    drop = later(execute, dsn, "DROP PUBLICATION replicator")
    trouble = paris.trouble("publication_changed", condition="halted")
    commits = [later(insert, dsn, f"lost {number}") for number in range(5)]
    assert_unanswered(drop)
    assert not any(commit.done() for commit in commits)
    tokyo.reach_sequence("applied", 2)
    assert tokyo.wallets() == 1
    paris.kill()
    paris.start()
    assert paris.trouble("publication_changed", condition="halted")["cure"] == trouble["cure"]
    assert not any(commit.done() for commit in [drop, *commits])
    # The cure, as it is told.
    paris.stop()
    tokyo.stop()
    paris.data.rename(paris.directory / "away")
    for statement in trouble["cure"].split("in the database: ")[1].split("; then start")[0].split("; "):
        execute(dsn, statement)
    for commit in [drop, *commits]:
        commit.result(30)
    paris.start()
    paris.reach_sequence("settled", 1)
    done = run_verb("bootstrap", str(tokyo.config), "--replace")
    assert done.returncode == 0, done.stdout + done.stderr
    tokyo.start()
    tokyo.reach(lambda _: tokyo.wallets() == 6, "all rows", 30)
    assert_equal(tokyo)


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())
