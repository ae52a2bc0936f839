"""Starting, stopping and starting again: nothing lost, nothing twice, and never a silent start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing

from replicator.errors import Halted, Unavailable
from replicator.format.block import BODY_LIMIT_BYTES
from replicator.pipeline.sources.postgres import PostgresOptions, PostgresSource
from replicator.postgres.lsn import parse_lsn
from tests.pipeline.sources.postgres.ledger import Collector, Ledger, assert_equal, caught_up, failure, following
from tests.servers import Postgres, free_port

NewLedger = Callable[..., Ledger]
PATIENCE_SECONDS = 30


def confirmed(ledger: Ledger) -> int:
    return parse_lsn(
        ledger.ask(
            f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{ledger.options.slot}'"
        )
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the server shows only when asked."""
    for _ in range(PATIENCE_SECONDS * 20):
        if condition():
            return
        await trio.sleep(0.05)
    raise AssertionError("it did not come true")


async def free(ledger: Ledger) -> None:
    """Wait until the server has noticed that nobody reads the slot."""
    query = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{ledger.options.slot}'"
    await until(lambda: ledger.ask(query) is not True)


def walsender(ledger: Ledger) -> int | None:
    pid = ledger.ask(f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{ledger.options.slot}'")
    return None if pid is None else int(pid)


async def test_a_message_that_is_the_last_of_the_log_is_no_further_than_the_log(new_ledger: NewLedger) -> None:
    """A server that is asked again before anything else was logged is not behind the journal."""
    ledger, sink = new_ledger(heartbeat_seconds=0), Collector()
    ledger.do("CREATE TABLE wallets (id int PRIMARY KEY)")
    async with following(ledger, sink):
        for number in range(20):
            ledger.do(f"SELECT pg_logical_emit_message(false, 'note', '{number}')")
            end = parse_lsn(ledger.ask("SELECT pg_current_wal_insert_lsn()::text"))
            await sink.until_blocks(number + 2)
            assert parse_lsn(sink.blocks[-1].draft.origin) <= end


async def test_from_every_origin_the_same_remainder_comes(ledger: Ledger) -> None:
    sink = Collector()
    sink.acknowledging = False  # the slot keeps everything
    async with following(ledger, sink):
        for i in range(4):
            ledger.together(
                f"INSERT INTO wallets VALUES ({1000 + i}, 'a', 1, NULL)", f"DELETE FROM wallets WHERE id = {i}"
            )
            ledger.do(f"SELECT pg_logical_emit_message(false, 'note', '{i}')")
        ledger.do("ALTER TABLE wallets ADD COLUMN more text", "INSERT INTO wallets VALUES (2000, 'a', 1, NULL, 'x')")
        await caught_up(ledger, sink)
    assert len(sink.blocks) == 11
    for count in range(1, len(sink.blocks)):
        await free(ledger)
        again = Collector(sink.notes, sink.blocks[:count])
        again.acknowledging = False
        async with following(ledger, again, sink.state(count)):
            await again.until_blocks(len(sink.blocks))
            await trio.testing.wait_all_tasks_blocked(0.02)
        assert [b.content for b in again.blocks] == [b.content for b in sink.blocks]
        assert [b.draft.origin for b in again.blocks] == [b.draft.origin for b in sink.blocks]


async def test_a_walsender_that_dies_again_and_again_loses_and_doubles_nothing(ledger: Ledger) -> None:
    sink = Collector()
    for round_ in range(3):

        async def act(round_: int = round_) -> None:
            await until(lambda: walsender(ledger) is not None)
            for i in range(20):
                ledger.do(f"UPDATE wallets SET note = '{round_}', balance = balance + 1 WHERE id % 20 = {i}")
                await trio.lowlevel.checkpoint()
            ledger.do(f"SELECT pg_terminate_backend({walsender(ledger)})")

        assert isinstance(await failure(ledger, sink, act=act), Unavailable)
        await free(ledger)
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")
    assert len(sink.blocks) == 1 + 3 * 20 + 1


async def test_a_copy_that_was_killed_midway_begins_again(ledger: Ledger) -> None:
    ledger.do("INSERT INTO wallets SELECT i, 'u', 1, repeat('x', 500) FROM generate_series(1000, 9000) i")
    sink = Collector()

    def kill() -> None:
        raise Unavailable("killed", "in the midst of the copy")

    sink.on_send = kill
    error = await failure(ledger, sink)
    assert error.reason == "killed"
    assert not sink.blocks
    await free(ledger)
    assert confirmed(ledger)  # half used: it was left behind
    ledger.do("UPDATE wallets SET note = 'between' WHERE id < 50")
    sink.on_send = lambda: None
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")
    assert [block.draft.txid for block in sink.blocks[:1]] == ["copy"]
    assert sink.blocks[0].draft.body is None  # it went in parts
    assert sink.largest_send < 2 * BODY_LIMIT_BYTES


async def test_the_copy_tells_how_far_it_is(ledger: Ledger) -> None:
    ledger.do(
        "INSERT INTO wallets SELECT i, 'u', 1, repeat('x', 500) FROM generate_series(1001, 9000) i", "ANALYZE wallets"
    )
    sink = Collector()
    seen: list[tuple[str, int]] = []
    source = PostgresSource(ledger.options)
    sink.on_send = lambda: seen.append((source.report.phase, source.report.copied_rows))
    with trio.move_on_after(PATIENCE_SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, sink.state(), sink)
            await sink.until(lambda: bool(sink.blocks))
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert {phase for phase, _ in seen} == {"copying"}
    rows = [count for _, count in seen]
    assert rows == sorted(set(rows))
    assert rows[-1] == 8100
    assert source.report.copy_rows_estimate == 8100


async def test_a_source_that_waits_for_the_server_can_be_stopped(ledger: Ledger) -> None:
    other = Ledger(ledger.dsn)
    other.do("BEGIN", "INSERT INTO wallets VALUES (300, 'open', 1, NULL)")  # a new slot waits for its end
    source = PostgresSource(ledger.options)
    waiting = (
        "SELECT count(*) FROM pg_locks l JOIN pg_replication_slots s ON s.active_pid = l.pid"
        f" WHERE NOT granted AND slot_name = '{ledger.options.slot}'"
    )
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            sink = Collector()
            nursery.start_soon(source.run, sink.state(), sink)
            await until(lambda: ledger.ask(waiting) > 0)
            nursery.cancel_scope.cancel()
    other.do("ROLLBACK")
    other.sql.close()
    assert not sink.blocks


async def test_a_large_transaction_goes_out_in_bounded_parts(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        sink.largest_send = 0
        ledger.do("INSERT INTO wallets SELECT i, 'user', 1, repeat('x', 40) FROM generate_series(1001, 101000) i")
        await caught_up(ledger, sink)
    large = sink.blocks[1]
    assert large.draft.body is None
    assert large.draft.statements == 100_000
    assert len(large.body) > 5 * BODY_LIMIT_BYTES
    assert sink.largest_send < 2 * BODY_LIMIT_BYTES
    assert_equal(ledger, sink, "wallets")


async def heard_again(source: PostgresSource) -> None:
    """Until the server has said something more: a heartbeat, or that it is there."""
    before = source.report.heard_at
    await until(lambda: source.report.heard_at != before)


async def test_a_sink_that_stands_still_stops_the_source_and_nothing_is_lost(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink) as source:
        sink.acknowledging = False
        before = confirmed(ledger)
        ledger.do("INSERT INTO wallets SELECT i, 'user', 1, NULL FROM generate_series(1001, 2000) i")
        await caught_up(ledger, sink)
        origin = sink.blocks[-1].draft.origin
        for _ in range(3):
            await heard_again(source)
        assert confirmed(ledger) == before
        source.acknowledge(origin)
        await until(lambda: confirmed(ledger) >= parse_lsn(origin))


async def test_a_quiet_database_holds_no_log(ledger: Ledger) -> None:
    ledger.do("CREATE UNLOGGED TABLE elsewhere (id int)")
    sink = Collector()
    async with following(ledger, sink) as source:
        await until(lambda: source.report.heard_at is not None and source.report.retained_bytes is not None)
        ledger.do("CREATE TABLE other AS SELECT 1 AS a FROM generate_series(1, 1000)", "DROP TABLE other")
        await until(lambda: len(sink.blocks) >= 2)
        target = parse_lsn(ledger.ask("SELECT pg_current_wal_lsn()::text"))
        heard = source.report.heard_at
        await until(lambda: confirmed(ledger) >= target)
        await until(lambda: source.report.heard_at != heard)
        count = len(sink.blocks)
        assert parse_lsn(sink.notes["postgres.idle"]) >= target
        assert parse_lsn(sink.blocks[-1].draft.origin) < target
    await free(ledger)
    async with following(ledger, sink):  # the slot is ahead of the last block, and that is known
        await caught_up(ledger, sink)
    assert len(sink.blocks) == count + 1
    del sink.notes["postgres.idle"]
    sink.blocks = sink.blocks[:count]
    await free(ledger)
    assert (await failure(ledger, sink)).reason == "slot_ahead"


async def test_what_cannot_lead_on_halts_with_its_reason(ledger: Ledger, new_ledger: NewLedger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        await caught_up(ledger, sink)
        active = await failure(ledger, Collector(sink.notes, sink.blocks))
        assert isinstance(active, Unavailable)
        assert active.reason == "slot_active"
    await free(ledger)
    slot = ledger.options.slot
    ledger.do("DELETE FROM wallets WHERE id = 1")
    ledger.do(f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")
    assert (await failure(ledger, sink)).reason == "slot_ahead"
    ledger.do(f"SELECT pg_drop_replication_slot('{slot}')")
    assert (await failure(ledger, sink)).reason == "slot_missing"
    ledger.do(f"SELECT pg_create_physical_replication_slot('{slot}')")
    assert (await failure(ledger, sink)).reason == "slot_foreign"
    fresh = Collector()
    foreign = await failure(ledger, fresh)
    assert isinstance(foreign, Halted)
    assert foreign.reason == "slot_foreign"
    assert slot in foreign.place
    assert "pg_drop_replication_slot" in foreign.cure
    other = new_ledger(slot=slot)
    assert (await failure(other, sink)).reason == "other_database"
    rewound = Collector(sink.notes, sink.blocks)
    rewound.blocks[-1].draft = rewound.blocks[-1].draft._replace(origin="FFFFFF/0")
    ledger.do(f"SELECT pg_drop_replication_slot('{slot}')")
    ledger.do(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    assert (await failure(ledger, rewound)).reason == "server_behind"


async def test_a_server_that_is_not_there_is_unavailable(unused_port: int) -> None:
    source = PostgresSource(
        PostgresOptions(dsn=f"host=127.0.0.1 port={unused_port} password=secret", connect_seconds=2)
    )
    with pytest.raises(Unavailable) as raised:
        await source.run(Collector().state(), Collector())
    assert "secret" not in str(raised.value)
    assert raised.value.reason == "postgres_unreachable"


async def test_a_role_without_the_privilege_halts(ledger: Ledger) -> None:
    ledger.do(f"CREATE ROLE poor_{ledger.name} LOGIN")
    ledger.options = PostgresOptions(
        dsn=ledger.dsn.replace("user=postgres", f"user=poor_{ledger.name}"), slot=ledger.name
    )
    error = await failure(ledger, Collector())
    assert isinstance(error, Halted)
    assert error.reason == "missing_privilege"
    ledger.do(f"ALTER ROLE poor_{ledger.name} REPLICATION")
    error = await failure(ledger, Collector())
    assert error.reason == "missing_privilege"
    assert "superuser" in error.message


async def test_an_owner_who_is_no_superuser_lists_tables_and_is_followed(ledger: Ledger) -> None:
    role = f"owner_{ledger.name}"
    ledger.do(
        f"CREATE ROLE {role} LOGIN REPLICATION",
        f'GRANT CREATE ON DATABASE "{ledger.name}" TO {role}',
        f"ALTER TABLE wallets OWNER TO {role}",
        "CREATE TABLE secret (id int PRIMARY KEY)",
    )
    dsn = ledger.dsn.replace("user=postgres", f"user={role}")
    ledger.options = PostgresOptions(dsn=dsn, slot=ledger.name, tables=("wallets",), heartbeat_seconds=0.1)
    sink = Collector()
    async with following(ledger, sink) as source:
        ledger.do("INSERT INTO secret VALUES (1)", "DELETE FROM wallets WHERE id = 1")
        await caught_up(ledger, sink)
        await until(lambda: source.report.heard_at is not None)
    assert_equal(ledger, sink, "wallets")
    assert {d.label for d in sink.state().relations.values()} == {"wallets"}
    ledger.do("ALTER PUBLICATION replicator ADD TABLE secret")
    assert (await failure(ledger, sink)).reason == "publication_differs"


@pytest.fixture
def unused_port() -> int:
    return free_port()


def ask_for_password(server: Postgres, role: str) -> None:
    """From the next start on."""
    hba = Path(server.directory / "data" / "pg_hba.conf")
    hba.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")


def recover(server: Postgres) -> None:
    """The next start replays the log as a restored server does, and begins a timeline of its own."""
    data = Path(server.directory / "data")
    (data / "recovery.signal").touch()
    with (data / "postgresql.conf").open("a") as file:
        file.write("restore_command = 'false'\n")


def be_standby(server: Postgres, standby: bool) -> None:
    """From the next start on."""
    signal = Path(server.directory / "data" / "standby.signal")
    signal.touch() if standby else signal.unlink()


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that a test may kill."""
    server = Postgres(tmp_path_factory.mktemp("own") / "server", {"wal_level": "replica"})
    server.create()
    server.start()
    yield server
    server.stop()


async def test_a_server_of_its_own_misconfigured_then_killed_and_restarted(own_server: Postgres) -> None:
    dsn = own_server.create_database("ledger")
    ledger = Ledger(dsn)
    ledger.do("CREATE TABLE wallets (id int PRIMARY KEY, user_id text)", "INSERT INTO wallets VALUES (1, 'a')")
    sink = Collector()
    error = await failure(ledger, sink)
    assert isinstance(error, Unavailable)  # it goes on by itself once its cure is carried out
    assert error.reason == "wal_level"
    assert error.cure.startswith("ALTER SYSTEM SET wal_level = logical; then restart the server")
    ledger.do("ALTER SYSTEM SET wal_level = logical", "CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'")
    own_server.stop()
    ask_for_password(own_server, "guarded")
    own_server.start()
    wrong = PostgresSource(PostgresOptions(dsn=f"{dsn} password=wrong".replace("user=postgres", "user=guarded")))
    with pytest.raises(Halted) as raised:
        await wrong.run(sink.state(), sink)
    assert raised.value.reason == "wrong_password"
    ledger = Ledger(dsn)
    for number in range(2, 4):

        async def act(number: int = number) -> None:
            await until(lambda: walsender(ledger) is not None)
            ledger.do(f"INSERT INTO wallets VALUES ({number}, 'a')")
            own_server.kill()

        assert isinstance(await failure(ledger, sink, act=act), Unavailable)
        assert isinstance(await failure(ledger, Collector(sink.notes, sink.blocks)), Unavailable)
        own_server.start()
        ledger.sql = psycopg.connect(dsn, autocommit=True)
    await free(ledger)
    own_server.stop()
    be_standby(own_server, True)  # for a while the dsn leads to a server that recovers
    own_server.start()
    error = await failure(ledger, sink)
    assert (type(error), error.reason) == (Unavailable, "server_in_recovery")
    own_server.stop()
    be_standby(own_server, False)
    own_server.start()
    ledger.sql = psycopg.connect(dsn, autocommit=True)
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")
    await free(ledger)
    ledger.do("CHECKPOINT")
    own_server.stop()
    recover(own_server)
    own_server.start()
    ledger.sql = psycopg.connect(dsn, autocommit=True)
    await until(lambda: ledger.ask("SELECT NOT pg_is_in_recovery()"))
    ahead = Collector(sink.notes, [*sink.blocks[:-1], dataclasses.replace(sink.blocks[-1])])
    ledger.do("INSERT INTO wallets SELECT i, 'b' FROM generate_series(100, 9000) i")
    written = ledger.ask("SELECT pg_current_wal_flush_lsn()::text")
    ahead.blocks[-1].draft = ahead.blocks[-1].draft._replace(origin=written)
    assert (await failure(ledger, ahead)).reason == "timeline_forked"  # it holds what the server has not
    async with following(ledger, sink):  # this one was not ahead of the fork
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")
    assert sink.notes["postgres.timeline"] == "2"
    ledger.sql.close()
