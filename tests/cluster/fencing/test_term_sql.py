"""When the time is over it is closed, and sessions end, whoever is dead, stopped or slow."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from replicator.cluster.fencing.base import Anchor
from replicator.cluster.fencing.postgres import PostgresFence
from replicator.errors import Halted, Unavailable
from tests.cluster.fencing.applications import ADD, as_app, balance, opened, refused, until, write


class Process:
    """See ``sidecar``."""

    def __init__(self, dsn: str) -> None:
        command = [sys.executable, "-m", "tests.cluster.fencing.sidecar", dsn]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> str:
        self.send(line)
        return self.answer()


@pytest.fixture
def process(dsn: str) -> Iterator[Process]:
    made = Process(dsn)
    yield made
    made.process.kill()
    made.process.wait()


GUARD = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'replicator guard'"
    " AND state = 'active'"
)


def ask(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(f"{dsn} application_name='replicator test'", autocommit=True) as db:
        return db.execute(query.encode()).fetchall()


def writes_until_refused(dsn: str) -> None:
    """An application that goes on as long as it can, also when its sessions are ended."""
    while True:
        try:
            with psycopg.connect(dsn, autocommit=True) as db:
                while True:
                    db.execute("INSERT INTO marks VALUES (statement_timestamp())")
        except psycopg.errors.ReadOnlySqlTransaction:
            return
        except psycopg.OperationalError:
            continue


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
async def test_without_its_sidecar_it_closes_and_ends_sessions(
    fence: PostgresFence, dsn: str, process: Process, fate: signal.Signals
) -> None:
    """And a sidecar that was stopped meanwhile cannot prolong what is over, whatever it had begun."""
    await fence.install()
    term = 2.0
    assert process.tell("anchor") == "done"
    assert process.tell(f"open {term}") == "done"
    ((deadline,),) = ask(dsn, "SELECT to_timestamp(last_value / 1e6) FROM replicator.open_until")
    assert process.tell("anchor") == "done"
    app = psycopg.connect(as_app(dsn))
    app.execute(ADD.encode())  # it would commit later
    process.process.send_signal(fate)
    ((fallen,),) = ask(dsn, "SELECT clock_timestamp()")
    writes_until_refused(dsn)
    until(lambda: ask(dsn, GUARD) == [])
    with pytest.raises(psycopg.OperationalError, match="administrator command"):
        app.commit()
    ((last,),) = ask(dsn, "SELECT max(at) FROM marks")
    assert fallen < last <= deadline, "the database runs on without its sidecar, but not for longer"
    if fate == signal.SIGSTOP:
        process.process.send_signal(signal.SIGCONT)
        assert process.tell(f"open {term - 1}") == "fence_late"
    refused(dsn)
    assert balance(dsn) == 10


async def test_a_sidecar_that_comes_back_in_time_goes_on_with_the_guard(
    fence: PostgresFence, dsn: str, process: Process
) -> None:
    await fence.install()
    assert process.tell("anchor") == process.tell("open 3") == "done"
    guard = ask(dsn, GUARD)
    app = psycopg.connect(as_app(dsn))
    app.execute(ADD.encode())
    process.process.kill()
    process.process.wait()
    await opened(fence, 30)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("SELECT pg_sleep(3.2)")  # the first term is over
    assert ask(dsn, GUARD) == guard
    app.commit()
    app.close()
    assert balance(dsn) == 11


async def test_a_transaction_older_than_several_terms_writes(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    await opened(fence, 1)
    with psycopg.connect(as_app(dsn)) as db:
        db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert db.execute("SELECT balance FROM wallets").fetchall() == [(10,)]
        for _ in range(30):
            await opened(fence, 1)
            db.execute("SELECT pg_sleep(0.1)")
        db.execute(ADD.encode())
    assert balance(dsn) == 11


async def test_what_comes_too_late_or_from_before_opens_nothing(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    anchor = await fence.anchor()
    past = Anchor(str(int(anchor.at) - 2_000_000))
    with pytest.raises(Unavailable) as caught:
        await fence.open(1, past, 1.9)
    assert caught.value.reason == "fence_late"
    refused(dsn)
    await opened(fence, epoch=5)
    await fence.close(None)
    with pytest.raises(Halted) as halted:
        await opened(fence, epoch=4)
    assert halted.value.reason == "fence_epoch"
    refused(dsn)
    await opened(fence, epoch=5)
    write(dsn)


async def test_a_term_is_not_shortened_by_an_earlier_one(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    early = await fence.anchor()
    await opened(fence, 30)
    await fence.open(1, early, 1)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("SELECT pg_sleep(1.1)")
        db.execute(ADD.encode())


async def test_a_guard_that_was_sent_for_before_a_closing_is_void(fence: PostgresFence, dsn: str) -> None:
    """As by a process that is stopped between asking and sending, or whose request is on its way still."""
    await fence.install()
    term = (1, int((await fence.anchor()).at), int((await fence.anchor()).at) + 60_000_000)
    with psycopg.connect(f"{dsn} application_name='replicator guard'", autocommit=True) as late:
        ((said, seen),) = late.execute("SELECT * FROM replicator.prolong(%s, %s, %s)", term).fetchall()
        assert said == "closed"
        await fence.close(None)
        late.execute("CALL replicator.guard(%s, %s, %s, %s)", (*term, seen))
        refused(dsn)
        ((said, _),) = late.execute("SELECT * FROM replicator.prolong(%s, %s, %s)", term).fetchall()
        assert said == "closed"
        refused(dsn)


async def test_a_guard_whose_statement_somebody_cancels_is_replaced(fence: PostgresFence, dsn: str) -> None:
    """It is the longest statement of the server: some day somebody will."""
    await fence.install()
    await opened(fence)
    guard = ask(dsn, GUARD)
    ask(dsn, f"SELECT pg_cancel_backend(pid) FROM ({GUARD}) AS guard")
    until(lambda: ask(dsn, GUARD) == [])
    await opened(fence, 2)
    assert ask(dsn, GUARD) != guard
    writes_until_refused(dsn)
    await opened(fence)
    write(dsn)


async def test_without_its_guard_it_is_closed(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    await opened(fence)
    ask(dsn, f"SELECT pg_terminate_backend(pid, 5000) FROM ({GUARD}) AS guard")
    refused(dsn)
    assert not (await fence.look()).open
    await opened(fence)
    write(dsn)


async def test_a_clock_that_is_set_back_closes(fence: PostgresFence, dsn: str) -> None:
    """Seen from the fence: its beginning is in the future."""
    await fence.install()
    await opened(fence)
    app = psycopg.connect(as_app(dsn))
    app.execute(ADD.encode())
    hour = 3_600_000_000
    ask(dsn, f"SELECT setval('replicator.open_from', last_value + {hour}) FROM replicator.open_from")
    with pytest.raises(psycopg.Error):  # refused, or ended with the others
        write(dsn)
    until(lambda: ask(dsn, GUARD) == [])
    with pytest.raises(psycopg.OperationalError):
        app.commit()
    refused(dsn)
    await opened(fence)
    write(dsn)
    assert balance(dsn) == 11
