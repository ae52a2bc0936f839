"""What the stream rests on is changed under it: nothing behind that is acknowledged, and the source halts for good.

The changes are real ones, and each is also put back before anybody looks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import trio

from replicator.errors import Halted, Unavailable
from replicator.pipeline.sources.postgres import PostgresSource, preflight
from replicator.pipeline.sources.postgres.stream_basis import UNLOGGED_NOTE
from replicator.postgres.lsn import parse_lsn
from tests.pipeline.sources.postgres.ledger import Collector, Ledger, assert_equal, caught_up, failure, following
from tests.pipeline.sources.postgres.test_resume import confirmed, free, heard_again, until
from tests.servers import Postgres

NewLedger = Callable[..., Ledger]
SETTINGS = {"max_wal_size": "64MB", "min_wal_size": "32MB", "autovacuum": "off", "max_prepared_transactions": "2"}
LOST = "INSERT INTO wallets VALUES (1001, 'lost', 1, NULL)"
CHANGES = {
    "put back": (
        "ALTER PUBLICATION replicator SET (publish = 'insert')",
        "UPDATE wallets SET balance = 0",
        "DELETE FROM wallets WHERE id < 10",
        "ALTER PUBLICATION replicator SET (publish = 'insert, update, delete, truncate')",
        LOST,
    ),
    "dropped": ("DROP PUBLICATION replicator", LOST),
    "made again": (
        "DROP PUBLICATION replicator",
        LOST,
        "CREATE PUBLICATION replicator FOR ALL TABLES WITH (publish_via_partition_root = true)",
        "INSERT INTO wallets VALUES (1002, 'there', 1, NULL)",
    ),
}
LISTED = {
    "taken out and in": (
        "ALTER PUBLICATION replicator DROP TABLE wallets",
        LOST,
        "ALTER PUBLICATION replicator ADD TABLE ONLY wallets",
    ),
    "filtered and not": (
        "ALTER PUBLICATION replicator SET TABLE ONLY wallets WHERE (id > 10)",
        "DELETE FROM wallets WHERE id < 10",
        "ALTER PUBLICATION replicator SET TABLE ONLY wallets",
    ),
}


async def assert_halts_for_good(ledger: Ledger, sink: Collector, *statements: str) -> None:
    """The source halts, acknowledges nothing behind the first statement, and does so again after a restart."""
    places: list[int] = []

    async def act() -> None:
        await caught_up(ledger, sink)
        ledger.do("SELECT pg_current_xact_id()")
        places.append(parse_lsn(ledger.ask("SELECT pg_current_wal_insert_lsn()::text")))
        ledger.do(*statements)

    error = await failure(ledger, sink, act=act)
    assert isinstance(error, Halted)
    assert error.reason == "publication_changed"
    assert confirmed(ledger) <= places[0]
    await free(ledger)
    assert (await failure(ledger, Collector(sink.notes, sink.blocks))).reason == "publication_changed"
    assert confirmed(ledger) <= places[0]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_publication_that_is_changed_halts_the_source(ledger: Ledger, change: str) -> None:
    sink = Collector()
    await assert_halts_for_good(ledger, sink, *CHANGES[change])
    assert not any(b"there" in block.body for block in sink.blocks), "what comes behind the change goes nowhere"


@pytest.mark.parametrize("change", LISTED)
async def test_a_publication_of_listed_tables_that_is_changed_halts_the_source(
    new_ledger: NewLedger, change: str
) -> None:
    ledger = new_ledger(tables=("wallets", "other"))
    if "filtered" in change and ledger.sql.info.server_version < 150000:
        pytest.skip("row filters came with PostgreSQL 15")
    ledger.do(
        "CREATE TABLE wallets (id int PRIMARY KEY, user_id text, balance numeric, note text)",
        "CREATE TABLE other (id int PRIMARY KEY)",
        "INSERT INTO wallets SELECT i, 'a', i, NULL FROM generate_series(1, 100) i",
    )
    await assert_halts_for_good(ledger, Collector(), *LISTED[change])


async def test_a_publication_that_is_changed_while_nobody_looks_halts_at_the_start(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    await free(ledger)
    ledger.do(*CHANGES["put back"])
    before = confirmed(ledger)
    for _ in range(2):
        assert (await failure(ledger, Collector(sink.notes, sink.blocks))).reason == "publication_changed"
    assert confirmed(ledger) == before


async def test_what_is_no_change_of_the_stream_halts_nothing(new_ledger: NewLedger) -> None:
    """A change that is undone, a lock, a published table that is dropped, another publication, a table that is new."""
    ledger = new_ledger(tables=("wallets", "other"))
    ledger.do(
        "CREATE TABLE wallets (id int PRIMARY KEY, user_id text, balance numeric, note text)",
        "CREATE TABLE other (id int PRIMARY KEY)",
    )
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("BEGIN", "ALTER PUBLICATION replicator SET (publish = 'insert')", "ROLLBACK")
        ledger.do("BEGIN", "SELECT FROM pg_publication WHERE pubname = 'replicator' FOR UPDATE", "COMMIT")
        ledger.do("DROP TABLE other", "CREATE TABLE another (id int)", "CREATE PUBLICATION more FOR TABLE another")
        ledger.do("VACUUM FULL pg_publication, pg_publication_rel", "VACUUM FREEZE pg_publication")
        ledger.do("INSERT INTO wallets VALUES (1, 'a', 1, NULL)")
        await caught_up(ledger, sink)
        target = parse_lsn(ledger.ask("SELECT pg_current_wal_flush_lsn()::text"))
        await until(lambda: confirmed(ledger) >= target)
    await free(ledger)
    async with following(ledger, Collector(sink.notes, sink.blocks)) as source:
        await source.vouched_for(target)
    assert_equal(ledger, sink, "wallets")


async def test_a_change_that_is_not_yet_visible_is_waited_for(ledger: Ledger) -> None:
    """Nothing behind it is acknowledged; undone, everything goes on, and committed within a savepoint, it halts."""
    sink, other = Collector(), Ledger(ledger.dsn)
    change = ("BEGIN", "SAVEPOINT one", "ALTER PUBLICATION replicator SET (publish = 'insert')")
    async with following(ledger, sink) as source:
        other.do(*change)
        ledger.do("UPDATE wallets SET balance = 0 WHERE id = 1")
        await caught_up(ledger, sink)
        before = confirmed(ledger)
        await until(lambda: source.report.held_up is not None)
        assert f"pid {other.sql.info.backend_pid} " in (source.report.held_up or "")
        for _ in range(3):
            await heard_again(source)
        assert confirmed(ledger) == before
        other.do("ROLLBACK")
        target = parse_lsn(ledger.ask("SELECT pg_current_wal_flush_lsn()::text"))
        await until(lambda: confirmed(ledger) >= target)
        await until(lambda: source.report.held_up is None)
    await free(ledger)
    other.do(*change)
    assert (await failure(ledger, sink, act=lambda: in_thread(other, "COMMIT"))).reason == "publication_changed"
    other.sql.close()


async def in_thread(ledger: Ledger, *statements: str) -> None:
    await trio.to_thread.run_sync(ledger.do, *statements)


async def test_a_table_that_is_followed_stays_logged(ledger: Ledger) -> None:
    """What is written while it is not would be in no stream. What rewrites a table for another reason may."""
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("CREATE UNLOGGED TABLE fast (id int PRIMARY KEY)", "INSERT INTO fast VALUES (1)", "TRUNCATE wallets")
        for statement in (
            "ALTER TABLE wallets SET UNLOGGED",
            "ALTER TABLE fast SET LOGGED",
            "SET session_replication_role = replica; ALTER TABLE wallets SET UNLOGGED",
            "BEGIN; ALTER TABLE wallets SET UNLOGGED",
        ):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="followed by the ledger replicator"):
                ledger.do(statement)
            ledger.do("ROLLBACK")
        ledger.do("ALTER TABLE wallets ALTER id TYPE bigint", "INSERT INTO wallets VALUES (1, 'a', 1, NULL)")
        ledger.do("VACUUM FULL wallets", "CLUSTER wallets USING wallets_pkey", "UPDATE wallets SET balance = 2")
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")
    assert [f.level for f in preflight(ledger.options) if "stay logged" in f.what] == ["ok"]
    ledger.do("ALTER EVENT TRIGGER replicator_logged_tables DISABLE")
    (finding,) = [f for f in preflight(ledger.options) if "stay logged" in f.what]
    assert finding.level == "warn"
    ledger.do(finding.cure)
    assert [f.level for f in preflight(ledger.options) if "stay logged" in f.what] == ["ok"]


async def test_a_table_that_is_not_logged_for_a_time_halts_the_source(ledger: Ledger) -> None:
    """Also one that never was, once its rows should be in the stream: what it has by then has come in unseen."""
    ledger.do("CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY)")
    sink = Collector()
    async with following(ledger, sink) as source:
        ledger.do("ALTER EVENT TRIGGER replicator_logged_tables DISABLE")  # else none could become so
        ledger.do("CREATE UNLOGGED TABLE another (id int PRIMARY KEY)", "INSERT INTO another VALUES (1)")
        await until(lambda: len(json.loads(sink.notes.get(UNLOGGED_NOTE, "[]"))) == 2)
        ledger.do("DROP TABLE scratch", "INSERT INTO wallets VALUES (1000, 'a', 1, NULL)")
        await until(lambda: len(json.loads(sink.notes[UNLOGGED_NOTE])) == 1)
        await caught_up(ledger, sink)
        await source.vouched_for(parse_lsn(sink.blocks[-1].draft.origin))
    await free(ledger)
    error = await failure(ledger, sink, "ALTER TABLE another SET LOGGED")
    assert (error.reason, error.place) == ("not_logged", "table public.another")
    await free(ledger)
    assert (await failure(ledger, Collector(sink.notes, sink.blocks))).reason == "not_logged"
    ledger.do("ALTER TABLE another SET UNLOGGED")  # nothing of it is in the ledger yet
    error = await failure(ledger, sink, "ALTER TABLE wallets SET UNLOGGED")
    assert (error.reason, error.place) == ("not_logged", "table public.wallets")
    await free(ledger)
    ledger.do("INSERT INTO wallets VALUES (1001, 'lost', 1, NULL)", "ALTER TABLE wallets SET LOGGED")
    for _ in range(2):
        again = await failure(ledger, Collector(sink.notes, sink.blocks))
        assert (again.reason, again.place) == ("not_logged", "table public.wallets")


# -- a server that is set back


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Postgres]:
    server = Postgres(
        tmp_path / "server",
        SETTINGS,
    )
    server.create()
    server.start()
    yield server
    server.stop()


async def test_a_server_that_is_set_back_halts_and_one_that_crashed_does_not(own_server: Postgres) -> None:
    """A crash sets the slot back, and loses nothing; an older copy of the disk, written on, brings another history."""
    dsn = own_server.create_database("ledger")
    ledger = Ledger(dsn, heartbeat_seconds=0.1)
    ledger.do("CREATE TABLE wallets (id int PRIMARY KEY, note text)", "INSERT INTO wallets VALUES (0, 'a')")
    sink = Collector()
    data, copy = own_server.directory / "data", own_server.directory / "copy"
    for number in range(1, 4):
        async with following(ledger, sink):
            ledger.do(
                f"INSERT INTO wallets VALUES ({number}, 'a')", f"UPDATE wallets SET note = 'b' WHERE id = {number}"
            )
            if number == 2:  # the last thing in the log
                ledger.do("SELECT pg_logical_emit_message(false, 'note', 'x')")
            await caught_up(ledger, sink)
            target = parse_lsn(sink.blocks[-1].draft.origin)
            await until(lambda target=target: confirmed(ledger) >= target)  # type: ignore[misc]
        if number == 3:
            await free(ledger)
            ledger.sql.close()
            own_server.stop()
            await trio.run_process(["cp", "-a", data, copy])
            own_server.start()
        else:
            own_server.kill()
            own_server.start()
        ledger.sql = psycopg.connect(dsn, autocommit=True)
    async with following(ledger, sink):
        ledger.do("INSERT INTO wallets SELECT i, 'first history' FROM generate_series(100, 130) i")
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")
    await free(ledger)
    ledger.sql.close()
    own_server.stop()
    place = parse_lsn(sink.blocks[-1].draft.origin)
    for rows in (1, 1000):  # before our place, and beyond it
        shutil.rmtree(data)
        await trio.run_process(["cp", "-a", copy, data])
        own_server.start()
        ledger.sql = psycopg.connect(dsn, autocommit=True)
        stood = confirmed(ledger)
        for number in range(rows):
            ledger.do(f"INSERT INTO wallets VALUES ({500 + number}, 'second history')")
        is_beyond = parse_lsn(ledger.ask("SELECT pg_current_wal_flush_lsn()::text")) > place
        for _ in range(2):
            error = await failure(ledger, Collector(sink.notes, sink.blocks))
            assert isinstance(error, Halted)
            assert error.reason == ("server_rolled_back" if is_beyond else "server_behind")
            await free(ledger)
        assert confirmed(ledger) == stood, "the slot stays where the evidence is"
        ledger.sql.close()
        own_server.stop()
    assert is_beyond


# -- transactions that hold the source up


async def test_who_holds_up_a_new_slot_is_named(new_ledger: NewLedger, caplog: pytest.LogCaptureFixture) -> None:
    ledger = new_ledger(lock_seconds=3)
    ledger.do("CREATE TABLE wallets (id int PRIMARY KEY)")
    other, sink = Ledger(ledger.dsn), Collector()
    pid = other.sql.info.backend_pid
    other.do("BEGIN", "INSERT INTO wallets VALUES (300)")
    source = PostgresSource(ledger.options)

    async def look() -> None:
        await until(lambda: source.report.held_up is not None)
        told = f"the first copy is held up by the transaction of pid {pid} (user postgres, database {ledger.name}"
        assert str(source.report.held_up).startswith(told)
        (finding,) = [f for f in preflight(ledger.options) if "held up" in f.what]
        assert (finding.level, finding.what.startswith(told)) == ("warn", True)
        assert [told in record.getMessage() for record in caplog.records if "held up" in record.getMessage()] == [True]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        with pytest.raises(Unavailable, match="transaction_open") as raised:
            await source.run(sink.state(), sink)
    told = f"pid {pid} (user postgres, database {ledger.name}, idle in transaction, open for"
    assert told in raised.value.message
    ledger.do(raised.value.cure.split(";")[0].removeprefix("let it end, or "))  # the cure
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")


async def test_a_prepared_transaction_that_holds_up_a_new_slot_is_named(own_server: Postgres) -> None:
    ledger = Ledger(own_server.create_database("ledger"), lock_seconds=1)
    ledger.do("CREATE TABLE wallets (id int PRIMARY KEY)", "BEGIN", "INSERT INTO wallets VALUES (1)")
    ledger.do("PREPARE TRANSACTION 'it''s one'")
    sink, source = Collector(), PostgresSource(ledger.options)
    with pytest.raises(Unavailable, match="transaction_open") as raised:
        await source.run(sink.state(), sink)
    assert "the prepared transaction 'it''s one' (user postgres, database ledger, open for" in raised.value.message
    ledger.do("ROLLBACK PREPARED 'it''s one'")
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    ledger.sql.close()


async def test_a_quiet_server_keeps_a_few_segments(own_server: Postgres) -> None:
    """Nobody writes, and the log grows nevertheless, as ``archive_timeout`` makes it."""
    ledger = Ledger(own_server.create_database("ledger"), heartbeat_seconds=0.1)
    ledger.do("CREATE TABLE wallets (id int PRIMARY KEY)")
    segments = "SELECT count(*) FROM pg_ls_waldir() WHERE length(name) = 24"
    async with following(ledger, Collector()) as source:
        for _ in range(14):
            ledger.do("SELECT pg_switch_wal()")
            for _ in range(3):
                await heard_again(source)
            ledger.do("CHECKPOINT")
        assert ledger.ask(segments) < 9
    ledger.sql.close()
