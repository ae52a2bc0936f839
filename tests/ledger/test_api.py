"""The ledger over real HTTP: writes, reads, and what hostile clients get."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from replicator.format.block import Draft
from replicator.format.position import Position, parse_position
from replicator.ledger.request import RequestLimits
from replicator.storage.journal.pruning import remove_pages
from tests.ledger.region import Clock, Region, api, change, insert, replica_api, running, served, transaction


async def post(client: httpx.AsyncClient, *statements: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/transactions", content=transaction(*statements, **fields))
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    assert answer.headers["Position"] == content["position"]
    return content


async def get(client: httpx.AsyncClient, path: str, status: int = 200, **query: str) -> dict[str, Any]:
    answer = await client.get("/v1" + path, params=query or None)
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = json.loads(answer.content, parse_float=Decimal)
    if status == 200:
        assert answer.headers["Position"] == content["position"]
    return content


async def test_a_transfer_is_written_and_read_at_its_position(client: httpx.AsyncClient) -> None:
    await post(client, insert(wallet_id="a", user_id="u", balance=900), insert(wallet_id="b", balance=0))
    done = await post(
        client,
        change("add", "a", add={"balance": -500}, require=[["balance", ">=", 0]]),
        change("add", "b", add={"balance": 500}, expect={"version": 1}),
    )
    assert done["versions"] == [2, 2]
    read = await get(client, "/tables/wallets/documents/a", after=done["position"])
    assert read["document"] == {"wallet_id": "a", "user_id": "u", "balance": 400}
    assert (read["version"], read["key"], read["position"]) == (2, {"wallet_id": "a"}, done["position"])
    refused = await client.post(
        "/v1/transactions",
        content=transaction(change("add", "a", add={"balance": -500}, require=[["balance", ">=", 0]])),
    )
    assert refused.status_code == 409
    assert refused.json()["reason"] == "condition_failed"
    assert refused.json()["place"] == "statements[0], table wallets, key a"


async def test_a_retry_gets_the_same_answer_and_is_not_applied_twice(client: httpx.AsyncClient) -> None:
    await post(client, insert(wallet_id="a", balance=0))
    body = transaction(change("add", "a", add={"balance": 5}), id="top-up")
    first = await client.post("/v1/transactions", content=body)
    again = await client.post("/v1/transactions", content=body)
    assert again.content == first.content
    assert ("Idempotency-Replayed" in first.headers, again.headers["Idempotency-Replayed"]) == (False, "true")
    assert (await get(client, "/tables/wallets/documents/a"))["document"]["balance"] == 5


async def test_retries_in_flight_at_once_are_applied_once(client: httpx.AsyncClient) -> None:
    await post(client, insert(wallet_id="a", balance=0))
    body = transaction(change("add", "a", add={"balance": 5}), id="top-up")
    answers: list[bytes] = []

    async def send() -> None:
        answers.append((await client.post("/v1/transactions", content=body)).content)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(send)
    assert len(answers) == 20
    assert len(set(answers)) == 1
    assert (await get(client, "/tables/wallets/documents/a"))["document"]["balance"] == 5


async def test_many_clients_at_once_lose_nothing(client: httpx.AsyncClient, region: Region) -> None:
    await post(client, insert(wallet_id="a", balance=0))
    head = region.journal.head("main").sequence

    async def add(amount: int) -> None:
        await post(client, change("add", "a", add={"balance": amount}))

    async with trio.open_nursery() as nursery:
        for amount in range(100):
            nursery.start_soon(add, amount)
    read = await get(client, "/tables/wallets/documents/a")
    assert (read["document"]["balance"], read["version"]) == (sum(range(100)), 101)
    assert region.journal.head("main").sequence == head + 100


async def test_keys_of_any_characters_are_found(client: httpx.AsyncClient) -> None:
    for key in ("a/b", "..", "ü ?&#%2F", "x" * 1000, "history", "1"):
        await post(client, insert(wallet_id=key))
        path = "".join(f"%{byte:02X}" for byte in key.encode())
        assert (await get(client, f"/tables/wallets/documents/{path}"))["document"] == {"wallet_id": key}
        (only,) = (await get(client, f"/tables/wallets/history/{path}"))["changes"]
        assert only["document"] == {"wallet_id": key}


async def test_a_key_of_several_fields_is_several_segments(client: httpx.AsyncClient) -> None:
    await post(client, insert("points", tenant="t/1", number=-7, user_id="u", sum=0))
    read = await get(client, "/tables/points/documents/t%2F1/-7")
    assert read["key"] == {"tenant": "t/1", "number": -7}
    for path, status in (("t%2F1", 400), ("t/1/-7", 400), ("t%2F1/x", 400), ("t%2F1/8", 404)):
        await get(client, f"/tables/points/documents/{path}", status)
    await post(client, {"table": "points", "op": "delete", "key": {"tenant": "t/1", "number": -7}})
    await get(client, "/tables/points/documents/t%2F1/-7", 404)


async def test_decimals_are_exact_all_the_way(client: httpx.AsyncClient) -> None:
    big = b"1234567890123456789012345678901234567890.00000001"
    document = b'{"wallet_id": "a", "n": 0.10, "big": %s, "small": 0.00000001}' % big
    added = b'"op": "add", "key": "a", "add": {"n": 0.20}'
    for statement in (b'"op": "insert", "document": ' + document, added):
        body = b'{"statements": [{"table": "wallets", %s}]}' % statement
        assert (await client.post("/v1/transactions", content=body)).status_code == 200
    read = (await client.get("/v1/tables/wallets/documents/a")).content
    for piece in (b'"n":0.30', b'"big":' + big, b'"small":0.00000001'):
        assert piece in read


async def test_a_users_documents_come_in_pages_and_from_all_tables(client: httpx.AsyncClient) -> None:
    wallets = [f"w{number:02}" for number in range(25)]
    await post(client, *(insert(wallet_id=wallet, user_id="u/1") for wallet in reversed(wallets)))
    await post(client, insert("points", tenant="t", number=1, user_id="u/1"), insert(wallet_id="other", user_id="u"))
    seen: list[str] = []
    query: dict[str, Any] = {"limit": "10"}
    while True:
        page = await get(client, "/tables/wallets/users/u%2F1", **query)
        seen += [document["key"]["wallet_id"] for document in page["documents"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert seen == wallets
    everything = await get(client, "/users/u%2F1")
    assert [(table["table"], len(table["documents"])) for table in everything["tables"]] == [
        ("points", 1),
        ("wallets", 25),
    ]
    assert (await get(client, "/tables/wallets/users/nobody"))["documents"] == []


async def test_the_history_of_a_document_comes_in_pages_newest_first(client: httpx.AsyncClient, clock: Clock) -> None:
    await post(client, insert(wallet_id="a", n=0), id="first")
    for _ in range(6):
        clock.now += 1_000_000
        await post(client, change("add", "a", add={"n": 1}))
    await post(client, change("delete", "a"))
    first = await get(client, "/tables/wallets/history/a", limit="5")
    second = await get(client, "/tables/wallets/history/a", limit="5", cursor=first["next"])
    changes = first["changes"] + second["changes"]
    assert [each["op"] for each in changes] == ["delete"] + ["update"] * 6 + ["insert"]
    assert [each["document"]["n"] for each in changes[1:]] == [6, 5, 4, 3, 2, 1, 0]
    assert (changes[-1]["transaction"], changes[-1]["committed_at"]) == ("first", "2026-02-02T02:40:00.000000Z")
    assert second["next"] is None
    assert (await get(client, "/tables/wallets/history/nothing"))["changes"] == []


async def test_a_document_as_of_a_sequence_and_as_of_a_time(client: httpx.AsyncClient, clock: Clock) -> None:
    sequences = []
    for number in range(3):
        clock.now += 1_000_000
        op = insert(wallet_id="a", n=0) if number == 0 else change("add", "a", add={"n": 1})
        sequences.append((await post(client, op))["sequence"])
    await post(client, change("delete", "a"))
    path = "/tables/wallets/documents/a"
    for number, sequence in enumerate(sequences):
        read = await get(client, path, as_of=str(sequence))
        assert (read["document"]["n"], read["version"]) == (number, number + 1)
        assert parse_position(read["position"]).sequence == sequence
    for time, number in (("02:40:01Z", 0), ("02:40:01.999999Z", 0), ("03:40:02%2B01:00", 1), ("02:40:02.5Z", 1)):
        assert (await get(client, f"{path}?as_of=2026-02-02T{time}"))["document"]["n"] == number
    await get(client, path, 404, as_of="2026-02-02T02:40:00Z")
    refused = await client.get(f"/v1{path}", params={"as_of": "2026-02-02T02:40:03Z"})  # the moment is not over yet
    assert (refused.status_code, refused.json()["reason"], refused.headers["retry-after"]) == (
        503,
        "not_there_yet",
        "1",
    )
    clock.now += 1
    await get(client, path, 404, as_of="2026-02-02T02:40:03Z")  # deleted in the same moment
    assert (await get(client, path, 503, as_of="2026-02-02T02:40:03.000001Z"))["reason"] == "not_there_yet"
    await get(client, path, 404, as_of="0")
    assert (await get(client, path, 409, as_of="999"))["reason"] == "not_there_yet"


async def test_what_was_pruned_is_said_to_be_unknown_and_not_to_be_nothing(
    client: httpx.AsyncClient, region: Region, clock: Clock
) -> None:
    await post(client, insert(wallet_id="old", n=0))
    await post(client, insert(wallet_id="a", n=0))
    for _ in range(6):
        clock.now += 1_000_000
        base = (await post(client, change("add", "a", add={"n": 1})))["sequence"]
    later = await post(client, change("add", "a", add={"n": 1}))
    while remove_pages(region.journal, "main", base).sequence < base:
        pass
    page = await get(client, "/tables/wallets/history/a")
    assert ([each["document"]["n"] for each in page["changes"]], page["begins_behind"]) == ([7], base)
    read = await get(client, "/tables/wallets/documents/a", as_of=str(later["sequence"]))
    assert read["document"]["n"] == 7
    for key, moment in (("a", str(base - 1)), ("a", str(base)), ("a", "2026-02-02T02:40:02Z"), ("old", str(base + 1))):
        refused = await get(client, f"/tables/wallets/documents/{key}", 410, as_of=moment)
        assert refused["reason"] == "before_journal", (key, moment)
    assert (await get(client, "/tables/wallets/documents/old"))["document"]["n"] == 0


async def test_reading_what_one_wrote_waits_for_it_or_says_when_to_come_back(
    client: httpx.AsyncClient, region: Region
) -> None:
    done = parse_position((await post(client, insert(wallet_id="a")))["position"])
    ahead = str(Position("main", 1, done.sequence + 1, bytes(32)))
    answer = await client.get("/v1/tables/wallets/documents/a", params={"after": ahead, "timeout": "50ms"})
    assert (answer.status_code, answer.headers["Retry-After"], answer.json()["reason"]) == (503, "1", "not_applied_yet")

    async def write_soon() -> None:
        await post(client, insert(wallet_id="b"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_soon)
        waited = await client.get("/v1/tables/wallets/documents/b", params={"after": ahead, "timeout": "10s"})
    # It waited until the block was there, and then saw that it is not the block that was meant.
    assert (waited.status_code, waited.json()["reason"]) == (409, "diverged")
    behind = str(region.journal.position_at("main", done.sequence - 1))
    for path in ("/tables", "/tables/wallets", "/tables/wallets/documents/a", "/tables/wallets/history/a", "/users/u"):
        await get(client, path, after=str(done))
        await get(client, path, after=behind)


async def test_tables_are_declared_once_and_described(client: httpx.AsyncClient) -> None:
    body = {"key": ["tenant", "card"], "key_type": ["string", "integer"], "user": "owner"}
    made = await client.put("/v1/tables/cards", json=body)
    again = await client.put("/v1/tables/cards", json=body)
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json()["columns"][0] == {"name": "tenant", "type": "text"}
    await post(client, insert("cards", tenant="t", card=1, owner="u"))
    for name, other in (("cards", {"key": "card"}), ("CARDS", body)):
        differs = await client.put(f"/v1/tables/{name}", json=other)
        assert (differs.status_code, differs.json()["reason"]) == (409, "table_differs")
    assert [table["table"] for table in (await get(client, "/tables"))["tables"]] == ["cards", "points", "wallets"]
    assert (await get(client, "/tables/cards"))["user"] == "owner"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("1x", {"key": "a"}),
        ("sqlite_x", {"key": "a"}),
        ("x%22y", {"key": "a"}),
        ("x", {}),
        ("x", {"key": []}),
        ("x", {"key": "version"}),
        ("x", {"key": "Document"}),
        ("x", {"key": ["a", "A"]}),
        ("x", {"key": "a", "key_type": "float"}),
        ("x", {"key": "a", "key_type": ["string", "string"]}),
        ("x", {"key": "a", "user": 1}),
        ("x", {"key": "a", "user": "A"}),
        ("x", {"key": "a", "colour": "red"}),
        ("x", []),
    ],
)
async def test_a_table_that_cannot_be_is_refused(client: httpx.AsyncClient, name: str, body: object) -> None:
    answer = await client.put(f"/v1/tables/{name}", json=body)
    assert (answer.status_code, answer.json()["reason"]) == (422, "bad_table"), answer.text


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/tables/nothing", 404, "unknown_table"),
        ("/tables/nothing/documents/a", 404, "unknown_table"),
        ("/tables/nothing/history/a", 404, "unknown_table"),
        ("/tables/nothing/users/a", 404, "unknown_table"),
        ("/tables/wallets/documents", 404, "not_found"),
        ("/tables/wallets/other/a", 404, "not_found"),
        ("/tables%2Fwallets", 404, "not_found"),
        ("/tables/wallets%2Fdocuments%2Fa", 404, "unknown_table"),
        ("/tables/wallets/documents/%FF", 400, "bad_path"),
        ("/tables/wallets/documents/%00", 400, "bad_key"),
        ("/tables/wallets/documents/" + "x/" * 100, 400, "bad_path"),
        ("/tables/wallets/documents/a?colour=red", 400, "unknown_parameter"),
        ("/tables/wallets/documents/a?as_of=1&as_of=2", 400, "bad_parameter"),
        ("/tables/wallets/documents/a?as_of=yesterday", 400, "bad_parameter"),
        ("/tables/wallets/documents/a?as_of=2026-01-01T00:00:00", 400, "bad_parameter"),
        ("/tables/wallets/documents/a?after=main:1", 400, "bad_parameter"),
        ("/tables/wallets/documents/a?after=other:0:0:" + "0" * 64, 400, "other_strand"),
        ("/tables/wallets/documents/a?timeout=1h", 400, "bad_parameter"),
        ("/tables/wallets/users/u?limit=0", 400, "bad_parameter"),
        ("/tables/wallets/users/u?limit=1001", 400, "bad_parameter"),
        ("/tables/wallets/users/u?cursor=%21", 400, "bad_parameter"),
        ("/tables/wallets/users/u?cursor=WzFd", 400, "bad_parameter"),
        ("/tables/wallets/users/u?cursor=WyJhIiwiYiJd", 400, "bad_key"),
        ("/tables/wallets/history/a?cursor=1", 400, "bad_parameter"),
        ("/users/a/b", 404, "not_found"),
    ],
)
async def test_what_is_asked_wrongly_is_refused_by_name(
    client: httpx.AsyncClient, path: str, status: int, reason: str
) -> None:
    answer = await client.get("/v1" + path)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text
    assert set(answer.json()) == {"reason", "message", "place", "cure"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/transactions"),
        ("DELETE", "/tables/wallets"),
        ("POST", "/tables"),
        ("PUT", "/tables"),
        ("POST", "/users/u"),
    ],
)
async def test_a_wrong_method_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, "/v1" + path)
    assert (answer.status_code, answer.json()["reason"]) == (405, "method_not_allowed")


async def test_what_is_not_a_transaction_is_refused(client: httpx.AsyncClient) -> None:
    for body, status, reason in (
        (b"", 400, "not_json"),
        (b"{", 400, "not_json"),
        (b"\xff", 400, "not_json"),
        (b'{"statements": [NaN]}', 400, "not_json"),
        (b'{"statements": [1]} x', 422, "bad_request"),
        (b"[]", 422, "bad_request"),
        (b"hello", 400, "not_json"),
        (b"[" * 100_000, 400, "too_deep"),
        (b"{} {}", 400, "not_json"),
        (b"{}", 422, "no_statements"),
        (b'{"id": ' + b"[" * 100_000, 400, "too_deep"),
    ):
        answer = await client.post("/v1/transactions", content=body)
        assert (answer.status_code, answer.json()["reason"]) == (status, reason), body[:40]


async def test_a_document_of_10_mb_is_refused_with_the_limit_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/transactions", content=transaction(insert(wallet_id="a", text="x" * 10_000_000)))
    assert (answer.status_code, answer.json()["reason"]) == (413, "document_too_large")
    assert "1,000,000" in answer.json()["message"]


async def test_a_body_is_bounded_whatever_its_length_claims(tmp_path: Path) -> None:
    async with (
        running(Region(tmp_path, Clock(), RequestLimits(request_bytes=10_000))) as region,
        served(api(region)) as client,
    ):
        body = transaction(insert(wallet_id="a", text="x" * 20_000))

        async def pieces() -> Any:
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000]

        for content in (body, pieces()):
            answer = await client.post("/v1/transactions", content=content)
            assert (answer.status_code, answer.json()["reason"]) == (413, "request_too_large")
            assert "10,000 bytes" in answer.json()["message"]
        packed = await client.post("/v1/transactions", content=b"", headers={"Content-Encoding": "gzip"})
        assert packed.status_code == 415


async def test_a_body_that_is_cut_off_does_nothing(client: httpx.AsyncClient, region: Region) -> None:
    head = region.journal.head("main")
    body = transaction(insert(wallet_id="a"))
    stream = await trio.open_tcp_stream("127.0.0.1", client.base_url.port or 0)
    await stream.send_all(b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(body) + 9))
    await stream.send_all(body)
    await stream.aclose()
    await get(client, "/tables/wallets/documents/a", 404)
    await post(client, insert(wallet_id="b"))
    assert region.journal.head("main").sequence == head.sequence + 1


async def test_a_replica_reads_but_takes_no_writes(region: Region, tmp_path: Path) -> None:
    await region.ledger.submit(transaction(insert(wallet_id="a", user_id="u")))
    async with served(replica_api(region, tmp_path, "https://eu.example")) as client:
        for refused in (
            await client.post("/v1/transactions", content=transaction(insert(wallet_id="b"))),
            await client.put("/v1/tables/cards", json={"key": "a"}),
        ):
            assert (refused.status_code, refused.json()["reason"]) == (409, "not_primary")
            assert "https://eu.example" in refused.json()["cure"]
            assert refused.json()["primary"] == refused.headers["Primary"] == "https://eu.example"
        assert (await get(client, "/tables/wallets/documents/a"))["version"] == 1


async def test_a_region_without_a_replica_yet_says_so(tmp_path: Path) -> None:
    region = Region(tmp_path, Clock())
    async with served(replica_api(region, tmp_path)) as client:
        answer = await client.get("/v1/tables")
        assert (answer.status_code, answer.json()["reason"]) == (503, "replica_missing")
    region.journal.append("main", [Draft("t", "", 1, 0, 0, b"")], 1)
    region.journal.close()
