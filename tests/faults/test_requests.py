"""Bad requests over real HTTP to a running sidecar: each is refused by name, with its place, and changes nothing."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.faults.regions import EMBEDDED, Region

GOOD = {"table": "wallets", "op": "insert", "document": {"wallet_id": "w", "user_id": "u"}}


@pytest.fixture(scope="module")
def paris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    region = Region(tmp_path_factory.mktemp("requests"), "paris", "primary", EMBEDDED)
    region.start()
    region.reach_sequence("applied", 1)
    yield region
    assert region.stop() == 0, region.log()


def _with(**document: Any) -> str:
    return json.dumps({"statements": [{"table": "wallets", "op": "insert", "document": document}]})


BODIES: dict[str, tuple[str | bytes, int]] = {
    "nothing": (b"", 400),
    "not JSON": (b"{", 400),
    "not UTF-8": (b'{"statements": "\xff"}', 400),
    "deep": (b"[" * 200_000, 400),
    "no statements": ("{}", 422),
    "another field": ('{"statements": [], "more": 1}', 422),
    "no key": (_with(user_id="u"), 422),
    "a key of another type": (_with(wallet_id=7), 422),
    "a key that is null": (_with(wallet_id=None), 422),
    "10 MB": (_with(wallet_id="big", filler="x" * 10_000_000), 413),
    "NaN": ('{"statements": [{"table": "wallets", "op": "insert", "document": {"wallet_id": "n", "x": NaN}}]}', 400),
    "1e999999": (_with(wallet_id="n").replace('"n"', '"n", "x": 1e9999999999'), 422),
    "a lone surrogate": (_with(wallet_id="\ud800"), 422),
    "a duplicate key": (json.dumps({"statements": [GOOD, GOOD]}), 422),
    "an unknown table": (json.dumps({"statements": [{**GOOD, "table": "walets"}]}), 404),
    "an unknown operation": (json.dumps({"statements": [{**GOOD, "op": "upset"}]}), 422),
    "half good": (json.dumps({"statements": [GOOD, {**GOOD, "table": "walets"}]}), 404),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_transaction_is_refused_and_does_nothing(paris: Region, name: str) -> None:
    body, status = BODIES[name]
    before = _head(paris)
    answer = httpx.post(f"{paris.url}/v1/transactions", content=body, timeout=20, trust_env=False, verify=False)
    refusal = answer.json()
    assert answer.status_code == status, refusal
    assert refusal["reason"]
    assert refusal["message"]
    assert refusal["place"] or refusal["cure"], refusal
    assert "Traceback" not in answer.text
    assert _head(paris) == before


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01garbage\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n{}",
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n{}",
        b"GET /feed/v1/%00%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v1/tables/wallets/documents/%2e%2e/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request_are_survived(paris: Region, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", paris.port), timeout=10) as client:
        try:
            client.sendall(request_bytes)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(65536)
        except OSError as error:  # which one depends on how far the refusal has got: ENOTCONN has no class of its own
            if error.errno not in {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}:
                raise
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    assert not answer.startswith(b"HTTP/1.1 200"), answer[:300]
    assert paris.ask("/liveness").status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/feed/v1/other", 404, "unknown_strand"),
        ("/feed/v1/main?after=-1", 400, "bad_request"),
        ("/feed/v1/main?after=99999999999999999999", 400, "bad_request"),
        ("/feed/v1/main?after=900", 409, "ahead"),
        ("/feed/v1/main?after=1&hash=00", 409, "diverged"),
        ("/feed/v1/main?from=yesterday", 400, "bad_request"),
        ("/feed/v1/main?from=2026-01-01T00:00:00", 400, "bad_request"),
        ("/feed/v1/main/positions/900", 404, "no_such_position"),
        ("/readiness?lag=soon", 400, "bad_lag"),
        ("/readiness?mode=wished", 400, "bad_mode"),
        ("/v1/tables/nothing", 404, "unknown_table"),
        ("/v1/tables/wallets/documents/a/b", 400, ""),
        ("/v1/tables/wallets/documents/a?after=x", 400, ""),
        ("/v1/tables/wallets/documents/a?when=x", 400, ""),
        ("/v1/tables/wallets/history/a?cursor=x", 400, ""),
        ("/v1/tables/wallets/users/u?limit=0", 400, ""),
        ("/v1/verify/moments/none/digests?table=wallets", 404, "no_such_moment"),
        ("/nowhere", 404, "not_found"),
    ],
)
def test_what_is_asked_wrongly_is_refused_by_name(paris: Region, path: str, status: int, reason: str) -> None:
    answer = paris.ask(path)
    assert answer.status_code == status, answer.text
    assert answer.json()["reason"] == (reason or answer.json()["reason"])
    assert answer.json()["message"]


def _head(region: Region) -> str:
    return str(region.ask("/feed/v1/main/positions/head").json()["position"])
