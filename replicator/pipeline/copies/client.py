"""Asking another region for a copy of it.

Guarantee: what cannot be had is Unavailable (ask again), Rejected (with the other region's reason) or Halted; answers
are bounded in size and time.
"""

from __future__ import annotations

from typing import Any

from replicator.pipeline.copies.wire import (
    ANSWER_LIMIT_BYTES,
    CONTENT_TYPE,
    Chunk,
    CopyEnd,
    CopyStart,
    unpack_begun,
    unpack_chunk,
)
from replicator.pipeline.feed.client import Upstream
from replicator.transport.answer import ExchangeReasons, bad_answer
from replicator.transport.client import Bounds, Client

SILENCE_SECONDS = 60.0  # a moment may have to be waited for
ANSWER_SECONDS = 900.0  # the largest chunk, at 10 Mbit/s
REASONS = ExchangeReasons("copy_unreachable", "copy_silent", "copy_unauthorised")


class CopyClient:
    """One region that is copied. Use as an async context manager."""

    def __init__(self, upstream: Upstream) -> None:
        self._http = Client(
            upstream.endpoint,
            Bounds(ANSWER_SECONDS, ANSWER_LIMIT_BYTES, SILENCE_SECONDS),
            REASONS,
            headers=upstream.headers,
            connect_seconds=upstream.connect_seconds,
        )

    async def __aenter__(self) -> CopyClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def plan(self) -> dict[str, Any]:
        """What a copy of now would be: ``position``, ``rows``, ``tables``."""
        answer = await self._http.json("GET", "/v1/copy")
        try:
            return {"position": str(answer["position"]), "rows": answer["rows"], "tables": dict(answer["tables"])}
        except (ValueError, KeyError, TypeError) as error:
            raise bad_answer(self._http.endpoint.place, f"it is no plan of a copy: {error!r}") from error

    async def begin(self, chunk_rows: int) -> CopyStart:
        """Have a moment held."""
        query = {"chunk_rows": chunk_rows}
        return unpack_begun(await self._http.content("POST", "/v1/copy", CONTENT_TYPE, query=query))

    async def chunk(self, copy: str, number: int) -> Chunk | CopyEnd:
        """One chunk. Raises Rejected ``no_such_copy`` if the moment is gone."""
        return unpack_chunk(await self._http.content("GET", f"/v1/copy/{copy}/{number}", CONTENT_TYPE), number)

    async def end(self, copy: str) -> None:
        """Let go of the moment."""
        await self._http.ask("DELETE", f"/v1/copy/{copy}")
