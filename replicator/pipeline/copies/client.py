"""Asking another region for a copy of it.

Guarantee: what cannot be had is Unavailable (ask again), Rejected (with the other region's reason) or Halted; answers
are bounded in size and time.
"""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx

from replicator.errors import Corrupt, Halted, Rejected, Unavailable
from replicator.pipeline.copies.wire import ANSWER_LIMIT_BYTES, Chunk, CopyEnd, CopyStart, unpack_begun, unpack_chunk
from replicator.pipeline.feed.client import Upstream

ANSWER_SECONDS = 60.0  # a moment may have to be waited for


class CopyClient:
    """One region that is copied. Use as an async context manager."""

    def __init__(self, upstream: Upstream) -> None:
        self._place = upstream.url
        headers = {"Feed-Region": upstream.region}
        if upstream.token:
            headers["Authorization"] = f"Bearer {upstream.token}"
        tls: ssl.SSLContext | bool = True
        if upstream.ca_file:
            tls = ssl.create_default_context(cafile=str(upstream.ca_file))
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=upstream.connect_seconds)
        self._http = httpx.AsyncClient(
            base_url=upstream.url, headers=headers, verify=tls, trust_env=False, timeout=timeout
        )

    async def __aenter__(self) -> CopyClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def plan(self) -> dict[str, Any]:
        """What a copy of now would be: ``position``, ``rows``, ``tables``."""
        try:
            answer = json.loads(await self._ask("GET", "/v1/copy"))
            return {"position": str(answer["position"]), "rows": answer["rows"], "tables": dict(answer["tables"])}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            cure = "check the address: is it a replicator sidecar's?"
            raise Corrupt("bad_copy", f"the answer cannot be read: {error!r}", place=self._place, cure=cure) from error

    async def begin(self, chunk_rows: int) -> CopyStart:
        """Have a moment held."""
        return unpack_begun(await self._ask("POST", f"/v1/copy?chunk_rows={chunk_rows}"))

    async def chunk(self, copy: str, number: int) -> Chunk | CopyEnd:
        """One chunk. Raises Rejected ``no_such_copy`` if the moment is gone."""
        return unpack_chunk(await self._ask("GET", f"/v1/copy/{copy}/{number}"), number)

    async def end(self, copy: str) -> None:
        """Let go of the moment."""
        await self._ask("DELETE", f"/v1/copy/{copy}")

    async def _ask(self, method: str, path: str) -> bytes:
        content = bytearray()
        try:
            async with self._http.stream(method, path) as response:
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > ANSWER_LIMIT_BYTES:
                        raise Halted("bad_copy", "the answer is too large", place=self._place, cure="see its version")
        except httpx.TimeoutException as error:
            cure = "check that region's sidecar"
            raise Unavailable("copy_silent", "no answer came in time", place=self._place, cure=cure) from error
        except (httpx.HTTPError, ssl.SSLError) as error:
            message = f"the region cannot be reached: {error or type(error).__name__}"
            cure = "check the address, the network and that region's sidecar"
            raise Unavailable("copy_unreachable", message, place=self._place, cure=cure) from error
        if response.status_code != 200:
            raise self._refusal(response.status_code, bytes(content))
        return bytes(content)

    def _refusal(self, status: int, content: bytes) -> Rejected | Unavailable | Halted:
        if status in (401, 403):
            cure = "give [follow] the token that the other region's [http] asks for"
            return Halted("copy_unauthorised", "the other region refuses the token", place=self._place, cure=cure)
        try:
            fields = json.loads(content)
            reason, message, cure = str(fields["reason"]), str(fields["message"]), str(fields["cure"])
        except (ValueError, KeyError, TypeError, RecursionError):
            reason, message, cure = "refused", f"status {status}", "check the address: is it a replicator sidecar's?"
        if status >= 500 or status == 429:
            return Unavailable(reason, message, place=self._place, cure=cure or "see the other region's log")
        return Rejected(reason, message, status=status, place=self._place, cure=cure)
