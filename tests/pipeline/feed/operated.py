"""A feed that withholds and forges, and a following region that an operator reaches over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import trio

from replicator.format.block import Block
from replicator.format.wire import pack_block, unpack_page
from replicator.pipeline.feed.gaps import routes
from replicator.pipeline.feed.publish import Publisher
from replicator.storage.journal.reading import JournalPage
from replicator.transport.server import Listen, application, serve
from tests.pipeline.feed.conftest import Primary, Region
from tests.servers import free_port

TOKEN = "the-token"


class Lossy(Publisher):
    """Withholds blocks, from the live stream only or altogether, and sends forged ones before the true ones."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.lost: set[int] = set()  # not in the live stream
        self.gone: set[int] = set()  # nowhere
        self.forged: dict[int, Block] = {}

    async def _page(self, strand: str, page: JournalPage, after: int, until: int | None) -> AsyncIterator[bytes]:
        for block in unpack_page(page.data):
            sequence = block.header.sequence
            live = until is None
            if not after < sequence <= (until or sequence) or sequence in self.gone:
                continue
            if live and sequence in self.forged:
                yield pack_block(self.forged[sequence])
            if not live or sequence not in self.lost:
                yield pack_block(block)


class Operated(Region):
    """A following region, and what an operator can ask of it."""

    def __init__(self, directory: Path, primary: Primary) -> None:
        super().__init__(directory, primary)
        self.port = free_port()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = application(routes(self.follower), TOKEN)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, app, Listen("127.0.0.1", self.port), trio.sleep_forever)
                nursery.start_soon(self.follower.run_once)
                yield
                nursery.cancel_scope.cancel()

    async def get(self, path: str) -> Any:
        return (await self.request("GET", path)).json()

    async def post(self, path: str, **fields: object) -> httpx.Response:
        return await self.request("POST", path, json=fields)

    async def request(self, method: str, path: str, token: str = TOKEN, **content: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = {"Authorization": f"Bearer {token}", **content.pop("headers", {})}
            return await client.request(
                method, f"http://127.0.0.1:{self.port}/v1/gaps{path}", headers=headers, **content
            )

    async def expect_gap(self, state: str) -> dict[str, Any]:
        """The first open gap, once it is in this state."""
        while True:
            gaps = (await self.get(""))["gaps"]
            if gaps and gaps[0]["state"] == state:
                return dict(gaps[0])
            await trio.sleep(0.01)  # polls over HTTP


def feed(primary: Primary) -> Lossy:
    """The feed of a primary that was made with ``Lossy``."""
    assert isinstance(primary.publisher, Lossy)
    return primary.publisher
