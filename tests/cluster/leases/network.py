"""A network between a sidecar and its lease store that does what a test says: a TCP proxy, and servers of nonsense."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

CHUNK_BYTES = 65_536
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclasses.dataclass
class Proxy:
    """Passes connections on. ``loses``: whether the connection is cut when the answer to this request has come back,
    and before it is passed on. ``alters``: what becomes of an answer, in as many bytes. ``meanwhile``: what happens
    while a request is on its way."""

    url: str
    meanwhile: Callable[[bytes], Awaitable[None]] | None = None
    loses: Callable[[bytes], bool] = lambda _: False
    alters: Callable[[bytes | bytearray], bytes | bytearray] = lambda data: data
    lost: int = 0


@contextlib.asynccontextmanager
async def proxy(upstream_port: int) -> AsyncIterator[Proxy]:
    """A proxy that is there within the block."""
    async with _serving(lambda client: _pass_on(network, upstream_port, client)) as url:
        network = Proxy(url)
        yield network


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """The address of a server that says the same to everybody."""

    async def say(client: trio.SocketStream) -> None:
        await client.receive_some(CHUNK_BYTES)
        await client.send_all(answer)

    async with _serving(say) as url:
        yield url


def http(body: bytes, status: str = "200 OK") -> bytes:
    """An answer in HTTP."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@contextlib.asynccontextmanager
async def _serving(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    async def one(client: trio.SocketStream) -> None:
        with contextlib.suppress(*_GONE):
            async with client:
                await serve(client)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, one, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _pass_on(network: Proxy, port: int, client: trio.SocketStream) -> None:
    loses = False

    async def answers(server: trio.SocketStream, both: trio.CancelScope) -> None:
        with contextlib.suppress(*_GONE):
            async for data in server:
                if loses:
                    network.lost += 1
                    break
                await client.send_all(network.alters(data))
        both.cancel()

    async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
        nursery.start_soon(answers, server, nursery.cancel_scope)
        async for request in _requests(client):
            loses = network.loses(request)
            if network.meanwhile is not None:
                await network.meanwhile(request)
            await server.send_all(request)
        nursery.cancel_scope.cancel()


async def _requests(client: trio.SocketStream) -> AsyncIterator[bytes]:
    """One after the other, each with its body."""
    data = b""
    with contextlib.suppress(*_GONE):
        async for piece in client:
            data += piece
            head, end, body = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head + end)
            if end and len(body) >= (int(length[1]) if length else 0):
                yield data
                data = b""
