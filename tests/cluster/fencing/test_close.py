"""When ``close`` has returned, nothing of an application's is under way; where that cannot be had, it says so."""

from __future__ import annotations

import threading

import psycopg
import pytest
import trio

from replicator.cluster.fencing.postgres import PostgresFence
from replicator.errors import Unavailable
from tests.cluster.fencing.applications import ADD, APP, as_app, balance, opened, refused, until, write

OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'busy'"


async def test_what_was_under_way_is_rolled_back_before_it_returns(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    await opened(fence)
    name = f"{as_app(dsn)} application_name=busy"
    idle, writing, waiting, reading = (psycopg.connect(name) for _ in range(4))
    idle.execute("SELECT 1")
    writing.execute(ADD.encode())
    pid = waiting.info.backend_pid
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            waiting.execute(ADD.encode())  # for the lock that ``writing`` has
        except psycopg.Error as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    with psycopg.connect(f"{dsn} application_name='replicator test'", autocommit=True) as db:
        while db.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() != ("Lock",):
            pass
        await fence.close(None)
        assert db.execute(OTHERS.encode()).fetchone() == (0,)
    thread.join()
    assert isinstance(errors[0], psycopg.OperationalError)
    for connection in (idle, writing, reading):
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert balance(dsn) == 10


async def test_under_load_every_write_that_was_answered_is_there(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    stop = threading.Event()
    answered = [0] * 8

    def customer(number: int) -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(as_app(dsn), autocommit=True) as db:
                    while not stop.is_set():
                        db.execute(ADD.encode())
                        answered[number] += 1
            except psycopg.Error:
                continue

    threads = [threading.Thread(target=customer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            await opened(fence)
            before = sum(answered)
            await trio.to_thread.run_sync(until, lambda before=before: sum(answered) >= before + 200)
            await fence.close(None)
            first = balance(dsn)
            await trio.sleep(0.05)
            assert balance(dsn) == first, "somebody wrote after it was closed"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sum(answered) <= balance(dsn) - 10 <= sum(answered) + 5 * 8, "but for answers that were cut off"


async def test_the_sidecars_own_sessions_go_on(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    await opened(fence)
    with psycopg.connect(f"{dsn} application_name='replicator slot'") as ours:
        ours.execute("SELECT 1")
        await fence.close(None)
        ours.execute("SELECT 1")


async def test_a_role_that_may_not_end_sessions_says_who_is_left(fence: PostgresFence, dsn: str) -> None:
    """A superuser's transaction: it can still end either way."""
    with psycopg.connect(dsn, autocommit=True) as db:
        for table in ("wallets", "events", "events_1", "base", "derived", "marks", '"odd.one"."a ""b\'"'):
            db.execute(f"ALTER TABLE {table} OWNER TO {APP}".encode())
        db.execute(f'GRANT ALL ON SCHEMA public, "odd.one" TO {APP}; GRANT pg_read_all_stats TO {APP}'.encode())
        db.execute(
            f"DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {APP}', current_database()); END $$".encode()
        )
    limited = PostgresFence(as_app(dsn))
    await limited.install()
    await opened(limited)
    with psycopg.connect(dsn) as admin:
        admin.execute("SELECT 1")
        admin.commit()
        await limited.close(None)  # it has no transaction: it does no harm
        await opened(limited)
        admin.execute(ADD.encode())
        with pytest.raises(Unavailable) as caught:
            await limited.close(None)
        assert caught.value.reason == "fence_sessions"
        assert str(admin.info.backend_pid) in caught.value.message
        refused(dsn)
        admin.rollback()
        await limited.close(None)
    limited.release()
    assert balance(dsn) == 10
    write(f"{dsn} options='-c replicator.writer=on'")
