"""Whose certificate is trusted, and what is said of one that is not."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from replicator.errors import ConfigError, Unavailable
from replicator.transport.client import Bounds, Client
from replicator.transport.endpoint import Endpoint
from tests.transport.hostile import answer

CERTIFICATE = Path(__file__).parents[1] / "ops" / "cli" / "paris.pem"  # for paris.example, self-signed, with its key
BOUNDS = Bounds(5.0, 1_000)


@contextlib.asynccontextmanager
async def serving_tls() -> AsyncIterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(answer(b"{}"))

    async with trio.open_nursery() as nursery:
        start = functools.partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")
        listeners = await nursery.start(start)
        yield f"https://127.0.0.1:{listeners[0].transport_listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_ones_own_certificate_is_trusted_whatever_host_it_is_for() -> None:
    async with serving_tls() as url, Client(Endpoint("paris", url, None, CERTIFICATE, is_own=True), BOUNDS) as client:
        assert await client.json("GET", "/") == {}


@pytest.mark.parametrize(("ca_file", "why"), [(None, "self-signed"), (CERTIFICATE, "mismatch")])
async def test_another_certificate_is_not_trusted_and_the_setting_is_named(ca_file: Path | None, why: str) -> None:
    async with serving_tls() as url:
        endpoint = Endpoint("paris", url, None, ca_file, ca_key="[follow] ca =")
        async with Client(endpoint, BOUNDS) as client:
            with pytest.raises(Unavailable, match=f"not trusted: .*{why}") as caught:
                await client.json("GET", "/")
    assert "[follow] ca," in caught.value.cure


@pytest.mark.parametrize("is_own", [False, True])
def test_a_file_that_holds_no_certificate_is_a_fault_of_the_configuration(tmp_path: Path, is_own: bool) -> None:
    for file in (tmp_path / "nowhere.pem", Path(__file__)):
        endpoint = Endpoint("paris", "https://paris.example", None, file, ca_key="[cluster] ca =", is_own=is_own)
        with pytest.raises(ConfigError) as caught:
            Client(endpoint, BOUNDS)
        assert caught.value.place == f"[cluster] ca = {file}"
        assert caught.value.cure


def test_without_tls_no_certificate_is_read(tmp_path: Path) -> None:
    assert Endpoint("paris", "http://paris.example", None, tmp_path / "nowhere.pem").tls() is False
