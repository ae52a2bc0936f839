"""A server that is restarted, killed, stopped, that waits for a standby, or that keeps prepared transactions."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from replicator.cluster.fencing.postgres import PostgresFence
from replicator.errors import Unavailable
from tests.cluster.fencing.applications import ADD, balance, opened, refused, write
from tests.servers import Postgres


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    made = Postgres(tmp_path_factory.mktemp("fenced") / "server", {"max_prepared_transactions": "5"})
    made.create()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def own(server: Postgres, request: pytest.FixtureRequest) -> Iterator[tuple[str, PostgresFence]]:
    dsn = server.create_database(str(abs(hash(request.node.name))))
    write(dsn, "CREATE TABLE wallets (id int PRIMARY KEY, balance int)")
    write(dsn, "INSERT INTO wallets VALUES (1, 10)")
    fence = PostgresFence(dsn)
    yield dsn, fence
    fence.release()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_closes_until_a_sidecar_opens(
    server: Postgres, own: tuple[str, PostgresFence], how: str
) -> None:
    dsn, fence = own
    await fence.install()
    await opened(fence, 300, epoch=7)
    write(dsn)
    getattr(server, how)()
    with pytest.raises(Unavailable):
        await fence.anchor()
    server.start()
    refused(dsn)
    view = await fence.look()
    assert (view.open, view.epoch) == (False, 7)
    await opened(fence, 300, epoch=7)
    write(dsn)
    await fence.close("https://tokyo.example")
    getattr(server, how)()
    server.start()
    assert refused(dsn).diag.message_hint == "the primary is at https://tokyo.example"
    assert balance(dsn) == 12


async def test_prepared_transactions_are_a_reason(own: tuple[str, PostgresFence]) -> None:
    dsn, fence = own
    await fence.install()
    await opened(fence)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"BEGIN; {ADD}; PREPARE TRANSACTION 'transfer'".encode())
    assert "prepared transactions: transfer" in (await fence.look()).detail
    with pytest.raises(Unavailable) as caught:
        await fence.close(None)
    assert (caught.value.reason, "transfer" in caught.value.message) == ("fence_prepared", True)
    refused(dsn)
    write(dsn, "ROLLBACK PREPARED 'transfer'")
    await fence.close(None)
    assert balance(dsn) == 10


async def test_it_waits_for_no_synchronous_standby(server: Postgres, own: tuple[str, PostgresFence]) -> None:
    """The sidecar may be the standby that would have to answer."""
    dsn, fence = own
    await fence.install()
    with server.connect() as admin:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            await opened(fence)
            began = time.monotonic()
            with psycopg.connect(dsn) as app:
                app.execute("SET synchronous_commit = local")
                app.execute(ADD.encode())
            waiting = psycopg.connect(dsn)
            waiting.execute(ADD.encode())
            waiting.pgconn.send_query(b"COMMIT")  # waits for the standby
            await fence.close(None)
            await opened(fence)
            await fence.close(None)
            await fence.install()
            assert time.monotonic() - began < 3
            waiting.close()
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")


async def test_by_hand_as_it_is_printed_a_replica_is_written_to_without_waiting(
    server: Postgres, own: tuple[str, PostgresFence]
) -> None:
    """Commits wait for other regions, and nobody follows a closed one: the refusal's own words lead past both."""
    dsn, fence = own
    await fence.install()
    await fence.close(None)
    with server.connect() as admin:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            with psycopg.connect(dsn) as person, pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as refused:
                person.execute("ALTER TABLE wallets ADD COLUMN note text")
            told = f"{refused.value.diag.message_hint} {refused.value.diag.message_detail}"
            settings = re.findall(r"SET \S+ = \w+", told)
            assert len(settings) == 2, told
            with psycopg.connect(dsn, autocommit=True) as person:
                for setting in settings:
                    person.execute(setting.encode())
                began = time.monotonic()
                person.execute("ALTER TABLE wallets ADD COLUMN note text")
                person.execute(ADD.encode())
                assert time.monotonic() - began < 5
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")


async def test_a_cancelled_commit_is_committed_here_and_acknowledged_by_nobody(
    server: Postgres, own: tuple[str, PostgresFence]
) -> None:
    """PostgreSQL's own rule, as the documents tell it; another database of the server waits, too."""
    dsn, _ = own
    other = server.create_database("beside_the_ledger")
    with server.connect() as admin:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            for database, statement in ((dsn, ADD), (other, "CREATE TABLE t ()")):
                warnings: list[str | None] = []
                with psycopg.connect(database) as writer:
                    writer.add_notice_handler(lambda notice: warnings.append(notice.message_detail))  # noqa: B023
                    writer.execute(statement.encode())
                    cancelling = threading.Thread(target=cancelled_when_it_waits, args=(admin, writer.info.backend_pid))
                    cancelling.start()
                    writer.commit()  # looks like any other
                    cancelling.join()
                assert any("already committed locally" in (warning or "") for warning in warnings)
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
    assert balance(dsn) == 11


def cancelled_when_it_waits(admin: psycopg.Connection, pid: int) -> None:
    waits = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = %s"
    while admin.execute(waits, [pid]).fetchone() != (True,):
        time.sleep(0.02)
    admin.execute("SELECT pg_cancel_backend(%s)", [pid])


async def test_a_server_that_is_stopped_is_not_waited_for(server: Postgres, own: tuple[str, PostgresFence]) -> None:
    """Within their time, calls say that it does not answer; when it runs on, the time is over."""
    dsn, _ = own
    fence = PostgresFence(dsn, call_seconds=0.5)
    await fence.install()
    await opened(fence, 1.0)
    assert server.process is not None
    pids = [server.process.pid, *children(server.process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        for call in (fence.anchor(), fence.close(None)):
            with pytest.raises(Unavailable):
                await call
        assert time.monotonic() - began < 4
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    with pytest.raises(psycopg.Error):  # refused, or ended with the others
        write(dsn)
    await opened(fence)
    assert balance(dsn) == 10
    write(dsn)
    fence.release()


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(entry.parent.name))
    return found


async def test_a_server_in_recovery_gives_no_anchor(tmp_path: Path) -> None:
    """It answers, and the sidecar may connect: but it takes nobody's writes, so no lease is to be held for it."""
    server = Postgres(tmp_path / "standby")
    server.create()
    server.start()
    fence = PostgresFence(server.create_database("ledger"))
    try:
        await fence.install()
        await fence.anchor()
        server.stop()
        signal_file = server.directory / "data" / "standby.signal"
        signal_file.touch()
        server.start()
        with pytest.raises(Unavailable):
            await fence.anchor()  # by the session to the server that was
        with pytest.raises(Unavailable) as refused:
            await fence.anchor()
        assert refused.value.reason == "fence_in_recovery"
    finally:
        fence.release()
        server.stop()
