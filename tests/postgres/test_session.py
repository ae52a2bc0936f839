"""Reaching a database: what is refused is named without its secrets, what is given up leaves nothing behind."""

from __future__ import annotations

import traceback

import pytest
import trio

from replicator.cluster.fencing.session import connect, database_of
from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.postgres.errors import FENCE, REPLICA, SOURCE, SessionReasons
from replicator.postgres.session import Connection, Database, Worker, place_of
from tests.postgres.users import ALL, User
from tests.servers import Postgres, free_port

SECRET = "secret-word"


@pytest.mark.parametrize(
    ("dsn", "place"),
    [
        (f"host=a port=6 dbname=d user=u password={SECRET}", "PostgreSQL a:6/d"),
        (f"postgresql://u:{SECRET}@a/d", "PostgreSQL a:5432/d"),
        ("hostaddr=127.0.0.1 user=u", "PostgreSQL 127.0.0.1:5432/u"),
        ("", "PostgreSQL local socket:5432/"),
        (f"host=a password={SECRET} words", "PostgreSQL"),
    ],
)
def test_a_place_names_no_secret(dsn: str, place: str) -> None:
    assert place_of(dsn) == place


@pytest.mark.parametrize("user", ALL, ids=lambda user: user.name)
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("{dsn} dbname=nowhere", Halted),
        ("{dsn} user=nobody_at_all", Halted),
        ("{dsn} port={free}", Unavailable),
        ("{dsn} options='-c nothing_known=1'", Halted),
        ("{dsn} two words", Halted),
    ],
)
def test_no_error_shows_the_password(user: User, words: str, kind: type[ReplicatorError], postgres: Postgres) -> None:
    dsn = words.format(dsn=f"{postgres.dsn()} password={SECRET}", free=free_port())
    with pytest.raises((Unavailable, Halted)) as raised:
        user.run(dsn, "SELECT 1")
    assert type(raised.value) is kind, raised.value
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert SECRET not in f"{raised.value} {raised.value.as_json()} {raised.value.__cause__}"


@pytest.mark.parametrize(("reasons", "reason"), [(REPLICA, "replica_dsn"), (SOURCE, "bad_dsn"), (FENCE, "fence_dsn")])
def test_a_dsn_that_is_none(reasons: SessionReasons, reason: str) -> None:
    with pytest.raises(Halted) as raised:
        Database(f"host=a password={SECRET} words", reasons).connect()
    assert raised.value.reason == reason
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def _sleep(connection: Connection) -> None:
    connection.execute("SELECT pg_sleep(30)")


async def test_a_worker_that_is_given_up_ends_its_statement(postgres: Postgres) -> None:
    database = Database(postgres.dsn(), SOURCE, name="given up")
    connection = await trio.to_thread.run_sync(database.connect)
    worker = Worker(connection, database)
    with trio.fail_after(10):
        with trio.move_on_after(0.2):
            await worker.call(_sleep)
        assert await worker.call(lambda db: db.execute("SELECT 1").fetchall()) == [(1,)]
    connection.close()


async def test_a_statement_on_trio_is_given_up_with_its_session(postgres: Postgres) -> None:
    session = await connect(database_of(postgres.dsn()))
    with trio.fail_after(10):
        with trio.move_on_after(0.2):
            await session.run("SELECT pg_sleep(30)")
        assert session.gone


def test_a_session_is_closed_behind_an_error(postgres: Postgres) -> None:
    kept: list[Connection] = []

    def fail() -> None:
        with Database(postgres.dsn(), SOURCE).session() as connection:
            kept.append(connection)
            connection.execute("SELECT nothing")

    with pytest.raises(Halted):
        fail()
    assert kept[0].closed
