"""The ledger for trio: groups, bounds, stopping, and what waiting clients hear."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio
import trio.testing

from replicator.errors import Halted, Rejected, ReplicatorError, Unavailable
from replicator.format.block import Block
from replicator.ledger import ledger as module
from replicator.ledger.ledger import Ledger
from replicator.ledger.tables import TableDeclaration
from replicator.pipeline.replicas.base import AppliedMark
from tests.ledger.region import WALLETS, Region, change, insert, new_journal, options, transaction


async def test_requests_that_wait_together_are_one_append(region: Region) -> None:
    await region.ledger.submit(transaction(insert(wallet_id="a", n=0)))
    before = region.journal.head("main").sequence
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(region.ledger.submit, transaction(change("add", "a", add={"n": 1})))
    assert region.journal.head("main").sequence == before + 50
    assert len(region.journal.pages("main", before, 1 << 30)) == 1  # a page is what one append wrote


async def test_a_large_request_and_a_table_go_alone_and_in_order(region: Region) -> None:
    text = "x" * 900_000
    done: list[int] = []

    async def send(number: int) -> None:
        big = [insert(wallet_id=f"{number}-{part}", text=text) for part in range(2)]
        answer = await region.ledger.submit(
            transaction(*big) if number == 1 else transaction(insert(wallet_id=str(number)))
        )
        done.append(answer.position.sequence)

    async def declare() -> None:
        declared = await region.ledger.declare(TableDeclaration("cards", ("card",), ("integer",)))
        done.append(declared.position.sequence)

    first = region.journal.head("main").sequence + 1
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(send, number)
        nursery.start_soon(declare)
    assert sorted(done) == list(range(first, first + 5))


async def test_who_does_not_fit_is_told_to_come_back(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_REQUESTS", 3)
    refused: list[Rejected] = []

    async def send(number: int) -> None:
        try:
            await region.ledger.submit(transaction(insert(wallet_id=str(number))))
        except Rejected as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(send, number)
    assert [(error.reason, error.status, error.retry_after) for error in refused] == [("busy", 503, 1)] * 7
    await send(11)
    assert len(refused) == 7


async def test_a_client_that_goes_away_leaves_its_request_whole(region: Region) -> None:
    body = transaction(insert(wallet_id="a"), insert(wallet_id="b"), id="i")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(region.ledger.submit, body)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    answer = await region.ledger.submit(body)
    assert answer.repeated
    assert answer.versions == [1, 1]


async def test_a_ledger_that_does_not_run_says_so_and_one_that_stops_settles_who_waits(tmp_path: Path) -> None:
    applied: list[AppliedMark] = []
    ledger = Ledger(new_journal(tmp_path), "main", 1, options(tmp_path), applied.append)
    with pytest.raises(Unavailable):
        await ledger.submit(transaction(insert(wallet_id="a")))
    heard: list[ReplicatorError] = []

    async def send(number: int) -> None:
        try:
            await ledger.submit(transaction(insert(wallet_id=str(number))))
        except Unavailable as error:
            heard.append(error)

    async with trio.open_nursery() as nursery, trio.open_nursery() as serving:
        await serving.start(lambda task_status: ledger.run((WALLETS,), task_status=task_status))
        for number in range(5):
            nursery.start_soon(send, number)
        serving.cancel_scope.cancel()
    sequences = [each.position.sequence for each in applied]
    assert sequences == sorted(sequences)
    assert {error.reason for error in heard} <= {"ledger_stopped"}
    async with trio.open_nursery() as serving:  # it may be run again
        await serving.start(lambda task_status: ledger.run((WALLETS,), task_status=task_status))
        await ledger.submit(transaction(insert(wallet_id="later")))
        assert applied[-1].position.sequence == 1 + 5 - len(heard) + 1
        serving.cancel_scope.cancel()


async def test_what_is_durable_is_told_even_if_the_state_cannot_follow(tmp_path: Path) -> None:
    applied: list[AppliedMark] = []
    committed: list[Block] = []
    ledger = Ledger(new_journal(tmp_path), "main", 1, options(tmp_path), applied.append, committed.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: ledger.run((WALLETS,), task_status=task_status))
        with sqlite3.connect(tmp_path / "state.sqlite3") as state:
            state.execute("CREATE TRIGGER stop BEFORE INSERT ON wallets BEGIN SELECT RAISE(ABORT, 'broken'); END")
        answer = await ledger.submit(transaction(insert(wallet_id="a")))
        assert committed[-1].position == answer.position
        assert applied[-1].position.sequence == answer.position.sequence - 1
        nursery.cancel_scope.cancel()


async def test_a_halt_reaches_the_client_and_ends_the_run(tmp_path: Path) -> None:
    ledger = Ledger(new_journal(tmp_path), "main", 1, options(tmp_path))
    ended: list[Halted] = []

    async def run(task_status: trio.TaskStatus[None]) -> None:
        try:
            await ledger.run((WALLETS,), task_status)
        except Halted as error:
            ended.append(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        with sqlite3.connect(tmp_path / "state.sqlite3") as state:
            state.execute("DROP TABLE wallets")
        with pytest.raises(Halted):
            await ledger.submit(transaction(insert(wallet_id="a")))
    assert len(ended) == 1


async def test_a_configured_table_that_differs_halts(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    for key, reason in (("a", None), ("b", "table_differs")):
        ledger = Ledger(journal, "main", 1, options(tmp_path))
        caught: list[str] = []
        async with trio.open_nursery() as nursery:
            declaration = TableDeclaration("t", (key,), ("string",))

            async def run(
                task_status: trio.TaskStatus[None],
                ledger: Ledger = ledger,
                declaration: TableDeclaration = declaration,
                caught: list[str] = caught,
            ) -> None:
                try:
                    await ledger.run((declaration,), task_status)
                except Halted as error:
                    caught.append(error.reason)
                    task_status.started()

            await nursery.start(run)
            nursery.cancel_scope.cancel()
        assert caught == ([reason] if reason else [])
