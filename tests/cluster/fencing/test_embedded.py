"""The embedded ledger's gate: who may write, until when, and what is answered if that time ends in the midst of it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from replicator.cluster.fencing.base import Anchor, Fence
from replicator.cluster.fencing.embedded import Gate, boottime
from replicator.errors import Halted, NotPrimary, OutcomeUnknown, Unavailable
from replicator.format.block import Draft
from replicator.format.statement import pack_message
from replicator.ledger.commit import Committer
from replicator.ledger.ledger import Ledger
from replicator.ledger.planning import TransactionAnswer
from replicator.pipeline.acknowledge import Acknowledgement, AcknowledgeRule
from replicator.storage.journal.store import Journal
from tests.ledger.region import WALLETS, Clock, Region, api, insert, new_journal, options, served, transaction

HERE = "https://here.example"


class Hands:
    """A clock that stands until it is moved, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def gate(hands: Hands) -> Gate:
    return Gate(hands)


@contextlib.contextmanager
def held(journal: Path) -> Iterator[None]:
    """Another program holds the journal's lock: an append within waits."""
    other = sqlite3.connect(journal, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def until(what: Any) -> None:
    with trio.fail_after(10):
        while not what():  # noqa: ASYNC110  # it looks from outside
            await trio.sleep(0.005)


# -- the gate by itself


async def test_it_is_a_fence(gate: Gate, hands: Hands) -> None:
    fence: Fence = gate
    await fence.install()
    assert not (await fence.look()).open
    await fence.open(3, await fence.anchor(), 2.0)
    assert (await fence.look())[:2] == (True, 3)
    hands.now += 2.0
    assert (await fence.look())[:2] == (False, 3), "a permit ends by itself"
    await fence.remove()


async def test_time_is_counted_from_the_anchor(gate: Gate, hands: Hands) -> None:
    """The answer of a lease store that took long gives that much less."""
    anchor = await gate.anchor()
    hands.now += 1.5
    await gate.open(1, anchor, 2.0)
    assert gate.left_seconds(1) == pytest.approx(0.5)
    await gate.open(1, Anchor(repr(hands.now)), 2.0)
    await gate.open(1, anchor, 2.0)
    assert gate.left_seconds(1) == pytest.approx(2.0), "an old answer takes nothing away"
    hands.now += 60
    with pytest.raises(Unavailable, match=r"59\.5 s after"):
        await gate.open(1, anchor, 2.0)
    with pytest.raises(NotPrimary):
        gate.permit()


async def test_an_epoch_never_comes_back(gate: Gate) -> None:
    await gate.open(7, await gate.anchor(), 5.0)
    await gate.close(HERE)
    with pytest.raises(Halted, match="epoch 6"):
        await gate.open(6, await gate.anchor(), 5.0)
    await gate.open(7, await gate.anchor(), 5.0)  # a planned move that was taken back
    assert gate.permit() == 7
    await gate.open(8, await gate.anchor(), 5.0)
    assert (gate.holds(7), gate.holds(8)) == (False, True)


async def test_closed_it_names_the_primary_or_says_when_to_come_back(gate: Gate) -> None:
    await gate.open(1, await gate.anchor(), 5.0)
    await gate.close(HERE)
    with pytest.raises(NotPrimary) as refused:
        gate.permit()
    assert (refused.value.status, refused.value.as_json()["primary"], HERE in refused.value.cure) == (409, HERE, True)
    await gate.close(None, retry_after=2)
    with pytest.raises(NotPrimary) as refused:
        gate.permit()
    assert (refused.value.status, refused.value.retry_after, "primary" in refused.value.as_json()) == (503, 2, False)


async def test_who_waits_for_it_is_woken_whenever_it_opens(gate: Gate) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.opened)
        await trio.testing.wait_all_tasks_blocked()
        await gate.close(None)
        await gate.open(1, await gate.anchor(), 5.0)
    await gate.close(None)
    with trio.move_on_after(0.01) as waiting:
        await gate.opened()
    assert waiting.cancelled_caught


# -- before a ledger


@contextlib.asynccontextmanager
async def fenced(directory: Path, gate: Gate, clock: Clock | None = None) -> Any:
    """A region whose ledger asks the gate, served over HTTP."""
    region = Region(directory, clock or Clock())
    told = region.committed.append
    region.ledger = Ledger(region.journal, "main", 1, options(directory), region._applied, told, permits=gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(region.ledger.run, (WALLETS,))
        async with served(api(region)) as client:
            yield region, client
        nursery.cancel_scope.cancel()
    region.reads.close()
    region.index.close()
    region.journal.close()


async def post(client: httpx.AsyncClient, name: str) -> httpx.Response:
    body = transaction(insert(wallet_id=name), id=name)
    return await client.post("/v1/transactions", content=body)


async def test_nothing_is_written_while_it_is_closed(tmp_path: Path, gate: Gate, hands: Hands) -> None:
    async with fenced(tmp_path, gate) as (region, client):
        refused = await post(client, "a")
        assert (refused.status_code, refused.json()["reason"]) == (409, "not_primary")
        assert region.journal.head("main").sequence == 0, "not even a configured table"
        await gate.open(4, await gate.anchor(), 5.0)
        await until(lambda: region.ledger.runs)
        done = await post(client, "a")
        assert (done.status_code, done.json()["sequence"]) == (200, 2)
        assert region.journal.head("main").epoch == 4, "it writes in the gate's epoch"
        await gate.close(HERE)
        for refused in (await post(client, "b"), await client.put("/v1/tables/cards", json={"key": "a"})):
            assert (refused.status_code, refused.json()["primary"], refused.headers["Primary"]) == (409, HERE, HERE)
        await gate.close(HERE, retry_after=3)
        moving = await post(client, "b")
        assert (moving.status_code, moving.headers["Retry-After"]) == (503, "3")
        assert (await post(client, "a")).status_code == 503, "a repetition is a write, too"
        await gate.open(5, await gate.anchor(), 5.0)
        hands.now += 5.0
        assert (await post(client, "b")).status_code == 409, "the permit ended"
        assert region.journal.head("main").sequence == 2


async def test_a_permit_that_ends_during_the_append_leaves_the_outcome_unknown(
    tmp_path: Path, gate: Gate, hands: Hands
) -> None:
    async with fenced(tmp_path, gate) as (region, client):
        await gate.open(1, await gate.anchor(), 5.0)
        await until(lambda: region.ledger.runs)
        answers: list[httpx.Response] = []

        async def write() -> None:
            answers.append(await post(client, "a"))

        async with trio.open_nursery() as nursery:
            with held(region.journal.path):
                nursery.start_soon(write)
                await until(lambda: gate.appends)
                hands.now += 5.0
        (answer,) = answers
        assert (answer.status_code, answer.json()["reason"]) == (503, "outcome_unknown")
        assert region.journal.head("main").sequence == 2, "it was written, too late"
        assert region.committed[-1].header.sequence == 2, "and is not hidden from the feed"
        await gate.open(2, await gate.anchor(), 5.0)
        again = await post(client, "a")
        assert (again.status_code, again.headers["Idempotency-Replayed"], again.json()["sequence"]) == (200, "true", 2)


@pytest.mark.parametrize(("retry_after", "status"), [(1, 200), (None, 503)])
async def test_closing_waits_for_the_append_under_way(
    tmp_path: Path, gate: Gate, retry_after: int | None, status: int
) -> None:
    """In a planned move the block is there for whoever leads next, and is answered; else nobody knows who leads."""
    async with fenced(tmp_path, gate) as (region, client):
        await gate.open(1, await gate.anchor(), 60.0)
        await until(lambda: region.ledger.runs)
        heads: list[int] = []
        answers: list[httpx.Response] = []

        async def write() -> None:
            answers.append(await post(client, "a"))

        async def close() -> None:
            await gate.close(HERE, retry_after=retry_after)
            heads.append(region.journal.head("main").sequence)

        async with trio.open_nursery() as nursery:
            with held(region.journal.path):
                nursery.start_soon(write)
                await until(lambda: gate.appends)
                nursery.start_soon(close)
                await trio.sleep(0.05)
                assert heads == []
        assert heads == [2], "what was under way is there when it returns"
        assert answers[0].status_code == status
        assert status == 200 or answers[0].json()["reason"] == "outcome_unknown"
        assert (await post(client, "b")).json()["reason"] == "not_primary"
        assert region.journal.head("main").sequence == 2


async def test_who_waits_for_other_regions_waits_no_longer_than_the_permit(tmp_path: Path) -> None:
    gate = Gate()
    region = Region(tmp_path, Clock())
    acknowledgement = Acknowledgement(AcknowledgeRule(1), 0)
    region.ledger = Ledger(
        region.journal,
        "main",
        1,
        options(tmp_path),
        region._applied,
        lambda block: acknowledgement.stored(block.header.sequence),
        permits=gate,
        acknowledges=acknowledgement,
    )
    async with trio.open_nursery() as nursery:
        await gate.open(1, await gate.anchor(), 60.0)
        await nursery.start(lambda task_status: region.ledger.run((WALLETS,), task_status=task_status))
        async with served(api(region)) as client:
            acknowledgement.reported("eu", 2)
            done = await post(client, "a")
            assert (done.status_code, done.json()["acknowledged_by"]) == (200, 1)
            await gate.open(2, await gate.anchor(), 0.3)
            with trio.fail_after(5):
                refused = await post(client, "b")
            assert (refused.status_code, refused.json()["reason"]) == (503, "outcome_unknown")
            acknowledgement.reported("eu", 3)
            assert (await post(client, "b")).status_code == 409, "the permit has ended"
            await gate.open(3, await gate.anchor(), 60.0)
            again = await post(client, "b")
            assert (again.status_code, again.json()["acknowledged_by"]) == (200, 1)
            assert again.headers["Idempotency-Replayed"] == "true"
        nursery.cancel_scope.cancel()
    region.reads.close()
    region.index.close()
    region.journal.close()


async def test_an_append_that_does_not_end_is_said(tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.cluster.fencing.embedded.CLOSE_SECONDS", 0.05)
    await gate.open(1, await gate.anchor(), 60.0)
    with gate.appending(), pytest.raises(Unavailable, match="under way"):
        await gate.close(None)
    with pytest.raises(NotPrimary):
        gate.permit()  # it stays closed
    await gate.close(None)


async def test_a_ledger_does_not_write_in_an_epoch_that_is_past(tmp_path: Path, gate: Gate) -> None:
    journal = new_journal(tmp_path)
    journal.append("main", [Draft("t", "", 1, 0, 1, pack_message("n", b""))], 9)
    await gate.open(8, await gate.anchor(), 60.0)
    committer = Committer(journal, "main", 1, options(tmp_path), gate)
    with pytest.raises(Halted, match="epoch 9"):
        committer.declare(WALLETS)
    journal.close()


# -- what was written too late, afterwards


async def test_a_retry_after_a_rewind_is_a_new_transaction(tmp_path: Path, gate: Gate, hands: Hands) -> None:
    """The block that was written too late was an orphan: the region's journal is another one's by now."""
    (tmp_path / "other").mkdir()
    journal, other = new_journal(tmp_path), new_journal(tmp_path / "other")
    await gate.open(1, await gate.anchor(), 5.0)
    committer = Committer(journal, "main", 1, options(tmp_path), gate)
    committer.declare(WALLETS)
    committer.execute([transaction(insert(wallet_id="kept"), id="kept")])
    other.accept("main", journal.blocks("main", 0, 1 << 20))
    body = transaction(insert(wallet_id="late"), id="late")
    with ThreadPoolExecutor(1) as pool:
        with held(journal.path):
            outcome: Future[Any] = pool.submit(committer.execute, [body])
            await until(lambda: gate.appends)
            hands.now += 5.0
        (unknown,) = outcome.result(10)
    assert isinstance(unknown, OutcomeUnknown)
    assert journal.head("main").sequence == 3
    committer.close()
    journal.close()
    # The other region's chain went on without it. Its journal and its copy of the rows are this region's now.
    state = options(tmp_path / "other")
    await gate.open(2, await gate.anchor(), 5.0)
    rewound = Committer(other, "main", 1, dataclasses.replace(options(tmp_path), state=state.state), gate)
    (answer,) = rewound.execute([body])
    assert isinstance(answer, TransactionAnswer)
    assert (answer.repeated, answer.position.epoch, answer.position.sequence) == (False, 2, 3)
    (kept,) = rewound.execute([transaction(insert(wallet_id="kept"), id="kept")])
    assert isinstance(kept, TransactionAnswer)
    assert (kept.repeated, kept.position.sequence) == (True, 2)
    rewound.close()
    other.close()


# -- a real process that is stopped


def test_a_process_that_was_stopped_during_its_append_acknowledges_nothing(tmp_path: Path) -> None:
    """SIGSTOP while the append is under way, for longer than the permit runs; then SIGCONT."""
    command = [sys.executable, "-m", "tests.cluster.fencing.gate_child", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            url = child.stdout.readline().strip()
            assert httpx.post(f"{url}/v1/transactions", content=transaction(insert(wallet_id="a"))).status_code == 200
            body = transaction(insert(wallet_id="b"), id="b")
            with ThreadPoolExecutor(1) as pool:
                with held(tmp_path / "journal.sqlite3"):
                    answer = pool.submit(httpx.post, f"{url}/v1/transactions", content=body, timeout=30)
                    assert child.stdout.readline() == "appending\n"
                    child.send_signal(signal.SIGSTOP)
                    time.sleep(1.2)  # the permit's time: this is what the test is about
                child.send_signal(signal.SIGCONT)
                refused = answer.result(20)
            assert (refused.status_code, refused.json()["reason"]) == (503, "outcome_unknown")
            late = httpx.post(f"{url}/v1/transactions", content=transaction(insert(wallet_id="c")))
            assert late.status_code == 409
        finally:
            child.kill()
    journal = Journal(tmp_path / "journal.sqlite3")
    assert journal.head("main").sequence == 3, "the block was written"
    journal.close()


def test_the_clock_counts_suspension() -> None:
    assert boottime() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)
