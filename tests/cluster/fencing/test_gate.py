"""A closed region: no way of writing is left, and everything else works. An open one: writing works."""

from __future__ import annotations

import psycopg
import pytest

from replicator.cluster.fencing.postgres import PostgresFence
from tests.cluster.fencing.applications import ADD, as_app, balance, opened, refused, write

WAYS = (
    "INSERT INTO wallets VALUES (2, 2)",
    "INSERT INTO wallets VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET balance = 7",
    ADD,
    "UPDATE wallets SET balance = 1 WHERE false",
    "DELETE FROM wallets",
    "TRUNCATE wallets",
    "TRUNCATE wallets, base CASCADE",
    "MERGE INTO wallets w USING (SELECT 1 AS id) s ON w.id = s.id WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM wallets RETURNING *) SELECT * FROM gone",
    "COPY wallets FROM STDIN",
    "DELETE FROM rich",
    "INSERT INTO events VALUES (1)",
    "INSERT INTO events_1 VALUES (1)",
    "UPDATE events_1 SET at = now()",
    "INSERT INTO base VALUES (1)",
    "UPDATE base SET id = 2",
    "INSERT INTO derived VALUES (1, 1)",
    "SET TRANSACTION READ WRITE; " + ADD,
    "DO $$ BEGIN UPDATE wallets SET balance = 1; END $$",
)
SUPERUSERS = (
    "SET session_replication_role = replica; " + ADD,
    'INSERT INTO "odd.one"."a ""b\'" VALUES (1)',
    "ALTER TABLE wallets DISABLE TRIGGER ALL",
    "ALTER TABLE wallets DISABLE TRIGGER replicator_fence",
    "ALTER TABLE wallets ADD COLUMN more int",
    "DROP TABLE wallets CASCADE",
    'DROP SCHEMA "odd.one" CASCADE',
    "CREATE TABLE copied AS SELECT * FROM wallets",
    "SELECT * INTO copied FROM wallets",
    "CREATE TABLE fresh (id int)",
    "CREATE SCHEMA another CREATE TABLE fresh (id int)",
)


async def test_closed_there_is_no_way_to_write(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    for who, ways in ((as_app(dsn), WAYS), (dsn, (*WAYS, *SUPERUSERS))):
        with psycopg.connect(who, autocommit=True) as db:
            for way in ways:
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="refused"):
                    copy(db, way) if way.startswith("COPY") else db.execute(way.encode())
                db.execute("RESET session_replication_role") if who == dsn else None
            assert db.execute("SELECT count(*), sum(balance) FROM wallets").fetchall() == [(1, 10)]


def copy(db: psycopg.Connection, statement: str) -> None:
    with db.cursor() as cursor, cursor.copy(statement.encode()) as rows:
        rows.write_row((9, 9))


async def test_a_refusal_that_is_caught_writes_nothing_and_holds_up_nobody(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    with psycopg.connect(as_app(dsn)) as db:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), db.transaction():
            db.execute(ADD.encode())
        assert db.execute("SELECT balance FROM wallets").fetchall() == [(10,)]
        await opened(fence)  # while the transaction goes on
        db.execute(ADD.encode())
    assert balance(dsn) == 11


async def test_closed_reading_and_temporary_tables_work(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    with psycopg.connect(as_app(dsn), autocommit=True) as db:
        db.execute("CREATE TEMP TABLE mine AS SELECT * FROM wallets")
        db.execute("INSERT INTO mine VALUES (2, 2)")
        assert db.execute("SELECT count(*) FROM mine").fetchall() == [(2,)]
        db.execute("DROP TABLE mine")
        with db.transaction():
            assert db.execute("SELECT * FROM wallets FOR SHARE").fetchall() == [(1, 10)]
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE INDEX ON wallets (balance)")


async def test_open_everything_works_and_closing_says_where_to_go(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    assert "not known" in (refused(dsn).diag.message_hint or "")
    await opened(fence)
    view = await fence.look()
    assert (view.open, view.epoch) == (True, 1)
    for who in (dsn, as_app(dsn)):
        write(who)
        write(who, "INSERT INTO events_1 VALUES (1)")
    write(dsn, "CREATE TABLE later (id int)")
    await fence.close("https://paris.example:7400")
    assert refused(as_app(dsn)).diag.message_hint == "the primary is at https://paris.example:7400"
    await fence.close(None, retry_after=2)
    assert (refused(dsn).diag.message_hint or "").endswith("try again in 2 s")
    assert not (await fence.look()).open
    await opened(fence, epoch=2)
    write(as_app(dsn))
    assert (balance(dsn), (await fence.look()).epoch) == (13, 2)


async def test_who_is_named_like_the_sidecar_never_writes(fence: PostgresFence, dsn: str) -> None:
    """It would not be ended with the others."""
    await fence.install()
    await opened(fence)
    for name in ("replicator", "'replicator reports'"):
        error = refused(f"{dsn} application_name={name}")
        assert "belongs to the sidecar" in str(error)
    write(f"{dsn} application_name=replicators")


async def test_who_says_that_it_is_the_sidecar_writes(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    write(f"{dsn} options='-c replicator.writer=on'")
    assert balance(dsn) == 11


async def test_a_name_in_the_way_of_the_search_path_changes_nothing(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    await opened(fence)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE TEMP SEQUENCE open_until")
        db.execute("CREATE TEMP TABLE fencing (one int)")
        db.execute("SET search_path = pg_temp, public")
        db.execute(ADD.encode())
        await fence.close("https://tokyo.example")
    error = refused(f"{dsn} options='-c search_path=public'")
    assert error.diag.message_hint == "the primary is at https://tokyo.example"
