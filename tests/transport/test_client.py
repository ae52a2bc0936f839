"""Everybody who asks another region, against servers that answer anything: each answer ends within its bounds, and what
is wrong with it is an error of ours that says where, why and what to do."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import msgpack
import pytest
import trio

from replicator.errors import Corrupt, Halted, Rejected, ReplicatorError, Unavailable
from replicator.transport.client import Bounds, Client
from replicator.transport.endpoint import Endpoint
from replicator.verify.serve import READ, ROWS
from tests.transport import users
from tests.transport.hostile import (
    BOMB,
    DRIP_SECONDS,
    PIECE,
    Say,
    Server,
    answer,
    begun,
    saying,
    serving,
    silent,
    without_end,
)
from tests.transport.users import LIMIT_BYTES, OF_JSON, RAISING, TELLING, TOKEN, User, narrow

pytestmark = pytest.mark.slow  # a hostile server for every user of the client and every answer

EVERYBODY = [*RAISING, *TELLING]
SECONDS, HASTY_SECONDS = 5.0, 0.1
OVER_SECONDS = 20.0  # what a few requests, one after the other, may take on a machine that has other work
SOCKETS_BYTES = 8_000_000  # what the buffers of sockets may hold beyond what was read

SIMPLE: dict[str, bytes] = {
    "packed": answer(BOMB, "200 OK", "Content-Encoding: gzip, gzip"),
    "packed refusal": answer(BOMB, "500 Internal Server Error", "Content-Encoding: gzip, gzip"),
    "shorter than it says": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "not HTTP": b"\x00\x01 SSH-2.0-garbage\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
    "nothing": b"",
    "a web page": answer(b"<html>", "200 OK", "Content-Type: text/html; charset=utf-8"),
    "a page of a proxy": answer(b"<html>", "502 Bad Gateway", "Content-Type: text/html"),
    "a refusal of megabytes": answer(b"\xff" * 1_000_000, "429 Too Many Requests"),
    "a refusal that is no object": answer(b'["reason"]', "409 Conflict"),
    "a refusal that is a number": answer(b'{"reason": 5, "message": 1e999}', "503 Service Unavailable"),
}
NO_JSON: dict[str, bytes] = {
    "not JSON": b"<html>",
    "not UTF-8": b"\xff\xfe\xfa",
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 40_000,
    "a list": b"[]",
    "null": b"null",
    "an endless number": b'{"report": {"epoch": 1e999}}',
    "not a number": b'{"position": NaN}',
    "too many digits": b'{"rows": ' + b"9" * 5_000 + b"}",
    "digits that no float has": b'{"rows": ' + b"9" * 400 + b"}",
}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch, SECONDS)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which a bound of time is what ends it."""
    narrow(monkeypatch, HASTY_SECONDS)


def each(users: list[User]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("user", users, ids=lambda user: user.__name__)


async def fault(user: User, say: Callable[[Server], Say] | Say, *, counts: bool = False) -> ReplicatorError | None:
    """What a user makes of a server, within its time; None if it is none of those who raise."""
    async with serving(say, counts=counts) as server:
        with trio.fail_after(OVER_SECONDS):
            caught = await of(user, server.url)
        assert server.sent_bytes <= LIMIT_BYTES + SOCKETS_BYTES
    return caught


async def of(user: User, url: str) -> ReplicatorError | None:
    if user not in RAISING:
        await user(url)
        return None
    with pytest.RaisesGroup(ReplicatorError, allow_unwrapped=True, flatten_subgroups=True) as caught:
        await user(url)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ReplicatorError)
    assert error.place, error
    assert error.cure, error
    assert TOKEN not in str(error)
    return error


@each(EVERYBODY)
@pytest.mark.parametrize("what", SIMPLE)
async def test_an_answer_of_any_kind_is_an_error_of_ours(user: User, what: str) -> None:
    tracemalloc.start()
    try:
        caught = await fault(user, saying(SIMPLE[what]))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16_000_000
    if caught is not None:
        assert isinstance(caught, Unavailable | Corrupt | Rejected)


@each(OF_JSON)
@pytest.mark.parametrize("what", NO_JSON)
async def test_json_that_cannot_be_used_is_a_bad_answer(user: User, what: str) -> None:
    if user in (users.cli_ask, users.cli_tell) and what in ("a list", "null"):
        return  # some verbs ask for a list; each checks its own answer
    caught = await fault(user, saying(answer(NO_JSON[what], "200 OK", "Content-Type: application/json")))
    assert caught is None or caught.reason == "bad_answer"


@each([user for user in OF_JSON if user not in (users.cli_ask, users.cli_tell)])
async def test_json_of_the_wrong_fields_is_a_bad_answer(user: User) -> None:
    fields = {"position": 5, "base": [], "rows": {}, "tables": 7, "moment": None, "report": [1], "marks": "x"}
    if user not in (users.rejoin_send, users.peer_order, users.drill_ask):  # they ask for no field
        caught = await fault(user, saying(answer(json.dumps(fields).encode())))
        assert caught is None or caught.reason == "bad_answer"


@each(EVERYBODY)
@pytest.mark.parametrize("head", [begun(), b"HTTP/1.1 500 Internal Server Error\r\n\r\n"], ids=["good", "refusal"])
async def test_a_body_without_end_is_read_up_to_its_bound(user: User, head: bytes) -> None:
    await fault(user, without_end(head, PIECE), counts=True)


@pytest.mark.usefixtures("hasty")
@each([user for user in EVERYBODY if user is not users.feed_stream])  # a feed has no end, a frame of it has
async def test_a_body_that_drips_is_given_up_within_its_time(user: User) -> None:
    await fault(user, without_end(begun() + b"{", b" ", DRIP_SECONDS), counts=True)


@pytest.mark.usefixtures("hasty")
@each(EVERYBODY)
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 500 No\r\n\r\n", b""])
async def test_a_head_or_a_refusal_that_drips_is_given_up_within_its_time(user: User, head: bytes) -> None:
    drop = b"HTTP/1.1 100 Continue\r\n\r\n" if not head else b"x"
    await fault(user, without_end(head, drop, DRIP_SECONDS), counts=True)


@pytest.mark.usefixtures("hasty")
@each(EVERYBODY)
async def test_silence_is_given_up_within_its_time(user: User) -> None:
    caught = await fault(user, silent)
    assert caught is None or isinstance(caught, Unavailable)


@each([*RAISING, users.drill_write])
@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_wrong_token_needs_a_person_and_names_the_setting(user: User, status: str) -> None:
    body = json.dumps({"reason": "unauthorised", "message": "the bearer token is missing or wrong"}).encode()
    async with serving(saying(answer(body, status))) as server:
        with trio.fail_after(OVER_SECONDS), pytest.RaisesGroup(Halted, allow_unwrapped=True) as caught:
            await user(server.url)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Halted)
    assert error.reason.endswith("unauthorised")
    assert "token" in error.message
    assert "] token" in error.cure


@each(EVERYBODY)
@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
async def test_nobody_follows_to_another_address_with_a_token(user: User, status: str) -> None:
    async with serving(saying(answer(b"{}"))) as elsewhere:
        caught = await fault(user, saying(answer(b"", status, f"Location: {elsewhere.url}/v1/status")))
        assert elsewhere.requests == []
    # An orphan may have been carried out, for all that a redirect says.
    assert caught is None or isinstance(caught, Unavailable if user is users.rejoin_send else Rejected)


@pytest.mark.usefixtures("hasty")
@each(EVERYBODY)
async def test_the_token_goes_along_and_nothing_packed_is_asked_for(user: User) -> None:
    async with serving(silent) as server:
        with trio.fail_after(OVER_SECONDS):
            await of(user, server.url)
    assert server.requests
    for head in server.requests:
        assert head.count(b"Authorization: Bearer sesame\r\n") == 1
        assert b"Accept-Encoding: identity\r\n" in head


@each([users.feed_position, users.copy_plan, users.verify_pause, users.peer_order, users.drill_ask, users.cli_ask])
async def test_the_reason_of_a_sidecar_is_kept(user: User) -> None:
    body = json.dumps({"reason": "not_now", "message": "later", "place": "ledger", "cure": "wait"}).encode()
    for status, kind in (("503 Service Unavailable", Unavailable), ("409 Conflict", Rejected)):
        caught = await fault(user, saying(answer(body, status)))
        assert type(caught) is kind
        assert (caught.reason, caught.message, caught.cure) == ("not_now", "later", "wait")
        assert caught.place.endswith(": ledger")


# -- a comparison's streams


@pytest.mark.parametrize(
    ("user", "piece"),
    [
        (users.verify_digests, msgpack.packb((READ, 5)) * 1_000),
        (users.verify_rows, msgpack.packb((ROWS, [(b"k", b"l" * 1_000)])) * 60),
    ],
)
async def test_a_stream_that_never_ends_is_read_up_to_its_bound(user: User, piece: bytes) -> None:
    caught = await fault(user, without_end(begun(), piece), counts=True)
    assert isinstance(caught, Corrupt)
    assert "more than 300,000 bytes" in caught.message


@pytest.mark.usefixtures("hasty")
async def test_signs_that_a_count_goes_on_end_with_its_time() -> None:
    sign = msgpack.packb((READ, 5))
    say = without_end(begun(), sign, DRIP_SECONDS)
    assert isinstance(await fault(users.verify_digests, say, counts=True), Unavailable)


@pytest.mark.parametrize(
    "piece",
    [
        (2, [1, 2]),
        (2, [("a", 1, bytes(32))]),
        (2, [(1, "many", bytes(32))]),
        (2, [(1, 1, bytes(31))]),
        (2, [(99, 1, bytes(32))]),
        (2, [(1, 2**64 - 1, bytes(32))]),
        (2, 5),
    ],
)
async def test_digests_that_are_none_are_corrupt(piece: object) -> None:
    assert isinstance(await fault(users.verify_digests, saying(begun() + msgpack.packb(piece))), Corrupt)


@pytest.mark.parametrize(
    "data", [msgpack.packb((3, [1])), msgpack.packb((3, [("a", b"b")])), b"\x92\x03\xdd\xff\xff\xff\xff"]
)
async def test_rows_that_are_none_are_corrupt(data: bytes) -> None:
    assert isinstance(await fault(users.verify_rows, saying(begun() + data)), Corrupt)


@pytest.mark.parametrize("piece", [[1], [[True, 5, None, [], [], 0]], [[True, None, [1], [], [], 0]], 7, {"a": 1}])
async def test_evidence_that_is_none_is_corrupt(piece: object) -> None:
    body = msgpack.packb(piece)
    assert isinstance(await fault(users.verify_evidence, saying(answer(body))), Corrupt)


# -- the client itself


def client_of(server: Server) -> Client:
    return Client(Endpoint("", server.url), Bounds(SECONDS, LIMIT_BYTES))


async def test_no_cookie_is_kept() -> None:
    async with (
        serving(saying(answer(b"{}", "200 OK", "Set-Cookie: a=b; Path=/"))) as server,
        client_of(server) as client,
    ):
        for _ in range(2):
            await client.json("GET", "/v1/status")
    assert not any(b"ookie" in head for head in server.requests)


async def test_an_answer_of_just_its_bound_is_whole() -> None:
    whole = answer(b"x" * LIMIT_BYTES, "200 OK", "Content-Type: a/b")
    async with serving(saying(whole)) as server, client_of(server) as client:
        assert len(await client.content("GET", "/", "a/b")) == LIMIT_BYTES
        with pytest.raises(Corrupt, match="'a/b', not c/d"):
            await client.content("GET", "/", "c/d")


@pytest.mark.parametrize("url", ["http://[bad", "http://\u2028", "http://127.0.0.1:1/\n", "http://a.invalid"])
async def test_an_address_that_is_none_is_unreachable(url: str) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with Client(Endpoint("", url), Bounds(5.0, LIMIT_BYTES)) as client:
            await client.json("GET", "/v1/status")


async def test_what_a_reader_of_a_stream_does_meanwhile_is_not_the_answers_time() -> None:
    body, bounds = b"x" * 100, Bounds(60.0, LIMIT_BYTES, HASTY_SECONDS)
    async with (
        serving(saying(begun("Content-Type: a/b") + body)) as server,
        client_of(server) as client,
        client.stream("/", "a/b", bounds=bounds) as stream,
    ):
        await trio.sleep(2 * HASTY_SECONDS)
        assert b"".join([piece async for piece in stream.pieces]) == body
