"""The fence of a real PostgreSQL database: who may write when, and who decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from replicator.fencing.postgres import PostgresFence


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    made = new_database()
    with psycopg.connect(made, autocommit=True) as db:
        db.execute("CREATE TABLE wallets (id int PRIMARY KEY, balance int NOT NULL)")
        db.execute("INSERT INTO wallets VALUES (1, 10)")
    return made


@pytest.fixture
def fence(dsn: str) -> Iterator[PostgresFence]:
    made = PostgresFence(dsn)
    yield made
    made.release()


def write(dsn: str, statement: str = "UPDATE wallets SET balance = balance + 1") -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(statement.encode())


def refused(dsn: str, statement: str = "UPDATE wallets SET balance = balance + 1") -> psycopg.Error:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
        write(dsn, statement)
    return caught.value


async def opened(fence: PostgresFence, seconds: float = 30, epoch: int = 1) -> None:
    await fence.open(epoch, await fence.anchor(), seconds)


async def test_closed_is_the_default_and_open_lets_write(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    refused(dsn)
    assert not (await fence.look()).open
    await opened(fence)
    assert (await fence.look()).open
    write(dsn)
    await opened(fence)
    write(dsn)
    await fence.close("https://paris.example:7400")
    error = refused(dsn)
    assert error.diag.message_hint == "the primary is at https://paris.example:7400"
    with psycopg.connect(dsn) as db:
        assert db.execute("SELECT balance FROM wallets").fetchall() == [(12,)]
    await opened(fence, epoch=2)
    write(dsn)
