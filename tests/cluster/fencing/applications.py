"""What applications do to a database that has a fence."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from replicator.cluster.fencing.postgres import PostgresFence

APP = "fence_app"
TABLES = (
    "CREATE TABLE wallets (id int PRIMARY KEY, balance int NOT NULL)",
    "INSERT INTO wallets VALUES (1, 10)",
    "CREATE TABLE events (id int, at date) PARTITION BY RANGE (id)",
    "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (100)",
    "CREATE TABLE base (id int)",
    "CREATE TABLE marks (at timestamptz)",
    "CREATE VIEW rich AS SELECT * FROM wallets WHERE balance > 5",
    "CREATE TABLE derived (more int) INHERITS (base)",
    'CREATE SCHEMA "odd.one"',
    'CREATE TABLE "odd.one"."a ""b\'" (id int)',
    f"GRANT ALL ON SCHEMA public TO {APP}",
    f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {APP}",
    f"GRANT pg_signal_backend TO {APP}",
)
ADD = "UPDATE wallets SET balance = balance + 1 WHERE id = 1"


def as_app(dsn: str) -> str:
    """The same database, for the role that is no superuser."""
    return dsn.replace("user=postgres", f"user={APP}")


def write(dsn: str, statement: str = ADD) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(statement.encode())


def refused(dsn: str, statement: str = ADD) -> psycopg.Error:
    """The error that a refused writer gets."""
    with psycopg.connect(dsn, autocommit=True) as db, pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
        db.execute(statement.encode())
    assert "refused" in str(caught.value), "it was not the fence"
    return caught.value


def balance(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as db:
        ((found,),) = db.execute("SELECT balance FROM wallets WHERE id = 1").fetchall()
    return int(found)


async def opened(fence: PostgresFence, seconds: float = 30, epoch: int = 1) -> None:
    await fence.open(epoch, await fence.anchor(), seconds)


def until(done: Callable[[], bool], seconds: float = 20) -> float:
    """Wait for what another process does; the seconds that it took."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() < began + seconds, "it did not come"
        time.sleep(0.005)  # polls a server
    return time.monotonic() - began
