"""A server that answers every request with the same hostile bytes, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

Say = Callable[[trio.SocketStream], Awaitable[None]]
PIECE = b" " * 65_536
DRIP_SECONDS = 0.02
BOMB = gzip.compress(gzip.compress(bytes(300_000_000), 1), 9)  # a few kB that become 300 MB


@dataclasses.dataclass
class Server:
    """Its address, the heads of the requests that came, and how many bytes it could send."""

    url: str
    requests: list[bytes] = dataclasses.field(default_factory=list)
    sent_bytes: int = 0


@contextlib.asynccontextmanager
async def serving(say: Callable[[Server], Say] | Say, *, counts: bool = False) -> AsyncIterator[Server]:
    """A server that reads a request's head and then says this; the connection closes behind it."""
    server = Server("")

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                server.requests.append(await _request(stream))
                await (say(server) if counts else say)(stream)  # type: ignore[arg-type, misc, operator]

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield server
        nursery.cancel_scope.cancel()


async def _request(stream: trio.SocketStream) -> bytes:
    """A whole request: to close before all of it was read would take the answer along."""
    data, wanted = b"", math.inf
    while len(data) < wanted:
        if not (piece := await stream.receive_some()):
            raise trio.BrokenResourceError
        data += piece
        head, end, _ = data.partition(b"\r\n\r\n")
        if end:
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            wanted = len(head + end) + (int(length[1]) if length else 0)
    return data


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def begun(*headers: str) -> bytes:
    """The head of an answer that ends with the connection."""
    return "\r\n".join(["HTTP/1.1 200 OK", "Connection: close", *headers, "", ""]).encode()


def saying(data: bytes) -> Say:
    """Says this, and nothing more."""

    async def say(stream: trio.SocketStream) -> None:
        await stream.send_all(data)

    return say


def without_end(head: bytes, piece: bytes, pause_seconds: float = 0.0) -> Callable[[Server], Say]:
    """Begins, and says the same again for ever."""

    def of(server: Server) -> Say:
        async def say(stream: trio.SocketStream) -> None:
            await stream.send_all(head)
            while True:
                await stream.send_all(piece)
                server.sent_bytes += len(piece)
                await trio.sleep(pause_seconds)

        return say

    return of


async def silent(stream: trio.SocketStream) -> None:
    """Says nothing."""
    await trio.sleep_forever()
