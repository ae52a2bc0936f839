"""Whatever stands still on the way from the primary's log to a region, no region behind it keeps calm.

Three processes in a row: Paris reads PostgreSQL, Tokyo follows Paris, Lima follows Tokyo. Each stage is made to stand
still by what really stops it (a signal, a lock, a full or vanished thing), while its neighbours go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psycopg
import pytest

from tests.e2e.sidecars import sqlite_rows
from tests.faults.regions import Region, follow, postgres_source, sqlite_replica
from tests.servers import Postgres

LIMIT = "2s"
PATIENCE_SECONDS = 40.0


class Chain:
    """The three regions and the primary's server."""

    def __init__(self, directory: Path) -> None:
        self.server = Postgres(directory / "server")
        self.server.create()
        self.server.start()
        self.dsn = self.server.create_database("ledger")
        self.do("CREATE TABLE wallets (id int PRIMARY KEY, balance int NOT NULL)", "INSERT INTO wallets VALUES (0, 0)")
        feed = '[feed]\nheartbeat = "200ms"\n\n'
        self.paris = Region(directory, "paris", "primary", postgres_source(self.dsn))
        self.tokyo = Region(directory, "tokyo", "replica", feed + follow(self.paris.url) + sqlite_replica())
        self.lima = Region(directory, "lima", "replica", feed + follow(self.tokyo.url) + sqlite_replica())
        self.regions = [self.paris, self.tokyo, self.lima]
        self.written = 0

    def do(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def ask(self, question: str) -> int:
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute(question.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def write(self) -> None:
        self.written += 1
        self.do(f"INSERT INTO wallets VALUES ({self.written}, 1)")

    def holds(self, region: Region) -> bool:
        """Whether a replica has what was written last."""
        with contextlib.suppress(sqlite3.OperationalError):
            return (str(self.written),) in list(sqlite_rows(region.directory / "ledger.db", "wallets", ["id"]))
        return False

    def end(self) -> None:
        for region in self.regions:
            if region.process is not None and region.process.poll() is None:
                region.process.send_signal(signal.SIGCONT)
            region.end()
        self.server.stop()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    chain = Chain(tmp_path_factory.mktemp("chain"))
    try:
        yield chain
    finally:
        chain.end()


def poll(done: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)  # polls other processes


def is_calm(region: Region) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return region.ask(f"/readiness?lag={LIMIT}").status_code == 200
    return False


def calm(chain: Chain) -> None:
    poll(lambda: all(map(is_calm, chain.regions)), lambda: str([region.status() for region in chain.regions]))
    for region in chain.regions:
        assert region.ask("/readiness?lag=5").status_code == 200, region.status()


# -- what stands still


@contextlib.contextmanager
def first_copy_waits(chain: Chain) -> Iterator[None]:
    with psycopg.connect(chain.dsn) as connection:  # no slot is made before an older transaction has ended
        connection.execute("INSERT INTO wallets VALUES (-1, 0)")
        for region in chain.regions:
            region.start()
        for region in chain.regions[1:]:
            region.reach(lambda status: status["strands"][0]["head"] is not None, "a first heartbeat")
        yield


@contextlib.contextmanager
def server_stops(chain: Chain) -> Iterator[None]:
    chain.server.kill()
    yield
    chain.server.start()


@contextlib.contextmanager
def walsender_stands_still(chain: Chain) -> Iterator[None]:
    pid = chain.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'")
    os.kill(pid, signal.SIGSTOP)
    try:
        chain.write()
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextlib.contextmanager
def journal_takes_nothing(chain: Chain) -> Iterator[None]:
    with locked(chain.paris.data / "journal.sqlite3"):
        chain.write()
        yield


@contextlib.contextmanager
def sidecar_stands_still(chain: Chain) -> Iterator[None]:
    chain.paris.freeze()
    chain.write()
    yield
    chain.paris.thaw()


@contextlib.contextmanager
def disk_is_full(chain: Chain) -> Iterator[None]:
    chain.tokyo.limit_files(1)
    chain.write()
    yield
    chain.tokyo.limit_files(-1)


@contextlib.contextmanager
def replica_takes_nothing(chain: Chain) -> Iterator[None]:
    with locked(chain.tokyo.directory / "ledger.db"):
        chain.write()
        yield


@contextlib.contextmanager
def slot_is_lost(chain: Chain) -> Iterator[None]:
    chain.do(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'walsender'",
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
    )
    chain.write()
    yield


class Stage(NamedTuple):
    """What stands still, which regions answer meanwhile and know too little, and a word that each of them says."""

    stands_still: Callable[[Chain], contextlib.AbstractContextManager[None]]
    regions: tuple[str, ...]
    words: tuple[str, ...]
    ends: bool = True


STAGES = {
    "first copy": Stage(first_copy_waits, ("paris", "tokyo", "lima"), ()),
    "server": Stage(server_stops, ("paris", "tokyo", "lima"), ("source",)),
    "walsender": Stage(walsender_stands_still, ("paris", "tokyo", "lima"), ()),
    "journal": Stage(journal_takes_nothing, ("paris", "tokyo", "lima"), ()),
    "feed": Stage(sidecar_stands_still, ("tokyo", "lima"), ()),
    "spool": Stage(disk_is_full, ("tokyo", "lima"), ()),
    "apply": Stage(replica_takes_nothing, ("tokyo",), ()),
    "slot": Stage(slot_is_lost, ("paris", "tokyo", "lima"), ("slot_",), ends=False),
}


@pytest.mark.parametrize("name", STAGES)
def test_no_region_keeps_calm_behind_a_stage_that_stands_still(chain: Chain, name: str) -> None:
    stage = STAGES[name]
    if name != "first copy":
        calm(chain)
    troubled = [region for region in chain.regions if region.name in stage.regions]
    with stage.stands_still(chain):
        for region in troubled:
            poll(lambda region=region: not is_calm(region), lambda region=region: str(region.status()))  # type: ignore[misc]
        for region in troubled:
            words = region.ask(f"/readiness?lag={LIMIT}").text + str(region.status())
            assert "every stage is at the head" not in words, words
            for word in stage.words:
                poll(
                    lambda word=word, region=region: word in str(region.status()["strands"][0]),  # type: ignore[misc]
                    lambda region=region: str(region.status()),  # type: ignore[misc]
                )
            status = region.status()
            assert status is not None
            lag = status["strands"][0]["lag"]["seconds"]
            assert lag is None or lag > 2.0, status
            if region is not chain.paris:
                assert region.ask(f"/replica?lag={LIMIT}").status_code == 503
                assert not chain.holds(region) or name in ("first copy", "server")
        if name == "apply":
            assert is_calm(chain.lima), "Tokyo's journal goes on, and Lima's copy with it"
    if stage.ends:
        calm(chain)
        poll(lambda: all(map(chain.holds, chain.regions[1:])), lambda: "what was written is not there")
