"""An idempotency key has one outcome, committed or refused, and every region tells it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import trio

from replicator.errors import Rejected, ReplicatorError
from replicator.ledger.api import PASSING
from replicator.ledger.planning import TransactionAnswer, TransactionRefusal
from tests.ledger.region import (
    Clock,
    Region,
    api,
    change,
    insert,
    new_committer,
    replica_api,
    running,
    served,
    transaction,
)

PAY = transaction(change("add", "a", add={"balance": -50}, require=[["balance", ">=", 0]]), id="pay")


async def post(client: httpx.AsyncClient, body: bytes, **headers: str) -> httpx.Response:
    return await client.post("/v1/transactions", content=body, headers=headers)


async def outcome(client: httpx.AsyncClient, id_: str, **query: str) -> tuple[int, dict[str, Any]]:
    answer = await client.get(f"/v1/transactions/{id_}", params=query or None)
    content: dict[str, Any] = answer.json()
    assert answer.status_code != 200 or answer.headers["Position"] == content["position"]
    return answer.status_code, content


@contextlib.asynccontextmanager
async def held_back(client: httpx.AsyncClient, body: bytes) -> AsyncIterator[trio.SocketStream]:
    """A request that has been sent but for its last byte."""
    stream = await trio.open_tcp_stream("127.0.0.1", client.base_url.port or 0)
    head = b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    await stream.send_all(head % len(body) + body[:-1])
    try:
        yield stream
    finally:
        await stream.aclose()


async def rest_of(stream: trio.SocketStream) -> bytes:
    received = b""
    async for piece in stream:
        received += piece
    return received


async def test_a_slow_first_attempt_whose_retry_was_refused_is_refused_too(client: httpx.AsyncClient) -> None:
    await post(client, transaction(insert(wallet_id="a", balance=0)))
    async with held_back(client, PAY) as slow:
        refused = await post(client, PAY)
        assert (refused.status_code, refused.json()["reason"]) == (409, "condition_failed")
        assert (await post(client, transaction(change("add", "a", add={"balance": 60})))).status_code == 200
        await slow.send_all(PAY[-1:])
        answer = await rest_of(slow)
    assert answer.startswith(b"HTTP/1.1 409"), answer
    assert answer.endswith(refused.content), answer
    assert b"idempotency-replayed: true" in answer.lower()
    again = await post(client, PAY)
    assert (again.status_code, again.content, again.headers["Idempotency-Replayed"]) == (409, refused.content, "true")
    assert (await client.get("/v1/tables/wallets/documents/a")).json()["document"]["balance"] == 60
    other = await post(client, transaction(change("add", "a", add={"balance": -50}), id="pay"))
    assert (other.status_code, other.json()["reason"]) == (422, "id_reused")


async def test_every_refusal_that_the_ledger_could_have_judged_otherwise_is_the_keys_outcome(
    client: httpx.AsyncClient,
) -> None:
    await post(client, transaction(insert(wallet_id="a", balance=0, text="x")))
    refused = {
        "absent": transaction(change("add", "b", add={"balance": 1}), id="absent"),
        "present": transaction(insert(wallet_id="a"), id="present"),
        "version": transaction(change("update", "a", set={"n": 1}, expect={"version": 7}), id="version"),
        "text": transaction(change("add", "a", add={"text": 1}), id="text"),
        "table": transaction(insert("cards", card="c"), id="table"),
    }
    first = {id_: await post(client, body) for id_, body in refused.items()}
    assert {id_: answer.status_code for id_, answer in first.items() if answer.status_code < 400} == {}
    # Now each of them would be carried out.
    await client.put("/v1/tables/cards", json={"key": "card"})
    await post(client, transaction(insert(wallet_id="b", balance=0)))
    await post(client, transaction(change("delete", "a")))
    for number in range(4):
        statement = insert(wallet_id="a", text=1) if number == 0 else change("update", "a", set={"n": 0})
        assert (await post(client, transaction(statement))).status_code == 200
    await post(client, transaction(change("update", "a", set={"n": 0})))
    for id_, body in refused.items():
        again = await post(client, body)
        assert (again.status_code, again.content) == (first[id_].status_code, first[id_].content), id_
        status, told = await outcome(client, id_)
        assert (status, told["outcome"], told["status"]) == (200, "refused", first[id_].status_code)
        assert {name: told[name] for name in ("reason", "message", "place", "cure")} == first[id_].json()


async def test_what_was_no_judgement_is_not_remembered(client: httpx.AsyncClient, region: Region) -> None:
    head = region.journal.head("main")
    for body in (
        b'{"id": "i", "statements": [1]}',
        b'{"id": "i", "statements": [{"table": "cards", "op": "insert", "document": {}}, 1]',
        transaction(change("add", "a", add={"balance": "x"}), id="i"),
        transaction(change("add", "a", add={"balance": 1})),
    ):
        assert (await post(client, body)).status_code in (400, 404, 422)
    assert region.journal.head("main") == head
    assert (await post(client, transaction(insert(wallet_id="a"), id="i"))).status_code == 200
    # What is sent again by design says so, and its key stays free.
    again = transaction(insert(wallet_id="a"), id="orphan")
    assert (await post(client, again, **{PASSING: "true"})).status_code == 409
    assert (await outcome(client, "orphan"))[0] == 404
    await post(client, transaction(change("delete", "a")))
    assert (await post(client, again)).status_code == 200


def test_a_refusal_outlives_a_restart_the_index_and_the_group_it_came_with(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    add = transaction(change("add", "a", add={"n": 1}), id="i")
    make = transaction(insert(wallet_id="a", n=0))

    def told(outcomes: list[Any]) -> list[str]:
        return [str(each.refusal) if isinstance(each, TransactionRefusal) else type(each).__name__ for each in outcomes]

    refused, made, again = committer.execute([add, make, add])
    assert isinstance(refused, TransactionRefusal)
    assert isinstance(made, TransactionAnswer)
    assert told([refused]) == told([again])
    for lost in (False, True):
        committer.close()
        if lost:  # as in a region that is promoted: it has the journal alone
            (tmp_path / "requests.sqlite3").unlink()
        other, own = committer.execute([transaction(change("add", "a", add={"n": 2}), id="i"), add])
        assert isinstance(other, Rejected)
        assert other.reason == "id_reused"
        assert told([own]) == told([refused])
    assert isinstance(committer.execute([add], {0})[0], TransactionRefusal | ReplicatorError)


async def test_refusals_are_forgotten_with_the_retention(tmp_path: Path, clock: Clock) -> None:
    async with running(Region(tmp_path, clock)) as region, served(api(region)) as client:
        assert (await post(client, PAY)).status_code == 404
        await post(client, transaction(insert(wallet_id="a", balance=100)))
        assert (await post(client, PAY)).status_code == 404
        clock.now += 8 * 86_400_000_000
        assert (await post(client, PAY)).status_code == 200


async def test_the_outcome_is_told_in_every_region(client: httpx.AsyncClient, region: Region, tmp_path: Path) -> None:
    await post(client, transaction(insert(wallet_id="gone"), id="first"))
    await post(client, transaction(change("add", "a", add={"n": 1}), id="no/way"))
    done = await post(
        client,
        transaction(insert(wallet_id="a"), insert("points", tenant="t", number=-7), change("delete", "gone"), id="ü 1"),
    )
    async with served(replica_api(region, tmp_path)) as other:
        for each in (client, other):
            status, told = await outcome(each, "%C3%BC%201", after=done.json()["position"])
            assert (status, told["outcome"], told["sequence"]) == (200, "committed", done.json()["sequence"])
            assert told["committed_at"] == done.json()["committed_at"]
            assert told["statements"] == [
                {"op": "insert", "table": "wallets", "key": {"wallet_id": "a"}, "version": 1},
                {"op": "insert", "table": "points", "key": {"tenant": "t", "number": -7}, "version": 1},
                {"op": "delete", "table": "wallets", "key": {"wallet_id": "gone"}, "version": 2},
            ]
            assert [statement["version"] for statement in told["statements"]] == done.json()["versions"]
            page = (await outcome(each, "%C3%BC%201", limit="2"))[1]
            assert (len(page["statements"]), page["next"]) == (2, "2")
            page = (await outcome(each, "%C3%BC%201", limit="2", cursor="2"))[1]
            assert (page["statements"], page["next"]) == (told["statements"][2:], None)
            status, told = await outcome(each, "no%2Fway")
            assert (status, told["outcome"], told["reason"]) == (200, "refused", "no_document")
            status, told = await outcome(each, "never")
            assert (status, told["reason"]) == (404, "unknown_id")
            assert "on its way" in told["message"]
            assert ("ask the primary" in told["cure"]) == (each is other)
        # What comes later is found, too.
        await post(client, transaction(insert(wallet_id="later"), id="later"))
        assert (await outcome(other, "later"))[1]["outcome"] == "committed"


async def test_a_region_that_cannot_look_everything_through_says_so(
    client: httpx.AsyncClient, region: Region, tmp_path: Path, monkeypatch: Any
) -> None:
    await post(client, transaction(insert(wallet_id="a"), id="first"))
    monkeypatch.setattr("replicator.ledger.outcomes.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("replicator.ledger.index.STEP_BYTES", 1)
    async with served(replica_api(region, tmp_path)) as other:
        statuses: list[int] = []
        while not statuses or statuses[-1] == 503:
            statuses.append((await outcome(other, "first"))[0])
    assert statuses[0] == 503
    assert statuses[-1] == 200
