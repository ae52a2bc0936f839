"""A server that is restarted, killed, stopped, that waits for a standby, or that keeps prepared transactions."""

from __future__ import annotations

import os
import signal
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
