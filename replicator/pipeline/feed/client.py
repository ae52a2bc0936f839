"""The feed's asking end: one upstream, over HTTP.

Guarantee: what comes out is frames that proved themselves, in the order they were sent; a refusal comes out as the
reason that the server gave; a connection that is silent for longer than ``idle_seconds`` is Unavailable, never a wait
without end. Non-goals: order across connections and gaps (the settle buffer's), trying again (``follow``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import trio

from replicator.errors import Corrupt, Halted, Rejected, Unavailable
from replicator.format.position import Position, parse_position
from replicator.format.wire import PROMPT, REPORTS_HEADER, Frame, FrameReader

ANSWER_LIMIT_BYTES = 64 * 1024
KEEP_SECONDS = 30  # an idle connection: who waits for a report should not wait for a handshake, too


@dataclasses.dataclass(frozen=True, slots=True)
class Upstream:
    """Where the feed comes from. ``token`` is the bearer token if the server asks for one, ``ca_file`` the authority
    that signed its certificate if it is not a public one, ``region`` what this region calls itself."""

    url: str
    region: str
    token: str | None = dataclasses.field(default=None, repr=False)
    ca_file: Path | None = None
    idle_seconds: float = 10.0
    connect_seconds: float = 5.0


class FeedClient:
    """Connections to one upstream. Use as an async context manager."""

    def __init__(self, upstream: Upstream) -> None:
        self.reports_wanted = trio.Event()  # set while the upstream asks for prompt ones; replaced when it does not
        self._place = upstream.url
        headers = {"Feed-Region": upstream.region}
        if upstream.token:
            headers["Authorization"] = f"Bearer {upstream.token}"
        verify: ssl.SSLContext | bool = True
        if upstream.ca_file:
            verify = ssl.create_default_context(cafile=str(upstream.ca_file))
        self._http = httpx.AsyncClient(
            base_url=upstream.url,
            headers=headers,
            verify=verify,
            trust_env=False,
            timeout=httpx.Timeout(upstream.idle_seconds, connect=upstream.connect_seconds),
            limits=httpx.Limits(keepalive_expiry=KEEP_SECONDS),
        )

    @property
    def url(self) -> str:
        """The upstream's address."""
        return self._place

    async def __aenter__(self) -> FeedClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @contextlib.asynccontextmanager
    async def stream(self, strand: str, after: Position, until: int | None = None) -> AsyncIterator[Frames]:
        """Open the stream behind ``after``; raises Rejected if the server refuses it."""
        query: dict[str, str | int] = {"after": after.sequence, "hash": after.hash.hex()}
        if until is not None:
            query["until"] = until
        async with self._streaming(strand, query) as frames:
            yield frames

    @contextlib.asynccontextmanager
    async def range(self, strand: str, first: int, last: int) -> AsyncIterator[Frames]:
        """Open a stream of the blocks ``first`` to ``last``, whose links the caller checks."""
        async with self._streaming(strand, {"after": first - 1, "until": last}) as frames:
            yield frames

    async def position(self, strand: str, sequence: int) -> Position | None:
        """The upstream's position at a sequence, None if it has none there."""
        try:
            return parse_position((await self._json(f"/feed/v1/{strand}/positions/{sequence}"))["position"])
        except Rejected as refusal:
            if refusal.reason == "no_such_position":
                return None
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(
                "bad_answer", f"the position in the answer cannot be read: {error}", place=self._place
            ) from error

    async def ends(self, strand: str) -> tuple[Position, Position]:
        """The end of the upstream's chain, and where its journal begins."""
        try:
            answer = await self._json(f"/feed/v1/{strand}/positions/head")
            return parse_position(answer["position"]), parse_position(answer["base"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"the positions in the answer cannot be read: {error}"
            raise Corrupt("bad_answer", message, place=self._place) from error

    async def report(self, position: Position) -> None:
        """Tell the upstream that this region has everything up to ``position`` durably. Raises Rejected, with the
        reason ``not_found`` where the upstream takes no reports."""
        path = f"/feed/v1/{position.strand}/received"
        try:
            await self._json(path, {"position": str(position)})
        except Rejected as refusal:
            if refusal.status in (404, 405) and refusal.reason != "unknown_strand":
                raise Rejected("not_found", "no reports are taken", status=404, place=self._place) from refusal
            raise
        except ValueError as error:
            raise Corrupt("bad_answer", f"the answer cannot be read: {error}", place=self._place) from error

    async def _json(self, path: str, fields: dict[str, str] | None = None) -> Any:
        """The answer to a GET, or to a POST of these fields."""
        with self._translated():
            async with self._http.stream("GET" if fields is None else "POST", path, json=fields) as response:
                content = await _bounded(response)
        if response.status_code != 200:
            raise self._refusal(response.status_code, content)
        if fields is not None:
            self._hear_wish(response)
        return _read_json(content)

    @contextlib.asynccontextmanager
    async def _streaming(self, strand: str, query: dict[str, str | int]) -> AsyncIterator[Frames]:
        with self._translated():
            async with self._http.stream("GET", f"/feed/v1/{strand}", params=query) as response:
                if response.status_code != 200:
                    raise self._refusal(response.status_code, await _bounded(response))
                self._hear_wish(response)
                yield Frames(response, self._translated, self._place)

    def _hear_wish(self, response: httpx.Response) -> None:
        """Whether the upstream asks for prompt reports: its last answer counts."""
        wanted = response.headers.get(REPORTS_HEADER) == PROMPT
        if wanted:
            self.reports_wanted.set()
        elif self.reports_wanted.is_set():
            self.reports_wanted = trio.Event()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            message = f"nothing was heard in time ({type(error).__name__})"
            raise Unavailable("feed_silent", message, place=self._place, cure="check that region's sidecar") from error
        except (httpx.HTTPError, ssl.SSLError) as error:
            message = f"the feed cannot be read: {error or type(error).__name__}"
            cure = "check the address, the network and that region's sidecar"
            raise Unavailable("feed_unreachable", message, place=self._place, cure=cure) from error

    def _refusal(self, status: int, content: bytes) -> Rejected | Unavailable | Halted:
        if status in (401, 403):
            cure = "give [follow] the token that the other region's [http] asks for"
            return Halted("feed_unauthorised", "the other region refuses the token", place=self._place, cure=cure)
        try:
            fields = _read_json(content)
            reason, message = str(fields["reason"]), str(fields["message"])
        except (ValueError, KeyError, TypeError):
            reason, message = "refused", f"status {status}"
        if status >= 500 or status == 429:
            return Unavailable(reason, message, place=self._place, cure="see the other region's log")
        return Rejected(reason, message, status=status, place=self._place)


class Frames:
    """The frames of one stream, in batches as they arrive."""

    def __init__(
        self, response: httpx.Response, translated: Callable[[], contextlib.AbstractContextManager[None]], place: str
    ) -> None:
        self._response = response
        self._place = place
        self._translated = translated
        self._reader = FrameReader()

    async def batches(self) -> AsyncIterator[list[Frame]]:
        """Each piece of the body that arrives, as the frames that it completed. Ends when the server closes.

        Raises Unavailable (the connection broke or fell silent) or Corrupt.
        """
        with self._translated():
            async for data in self._response.aiter_raw():
                if batch := self._read(data):
                    yield batch

    def _read(self, data: bytes) -> list[Frame]:
        try:
            self._reader.feed(data)
            return list(self._reader)
        except Corrupt as error:
            raise error.within(self._place) from error


def _read_json(content: bytes) -> Any:
    """Raises ValueError for what is no JSON, however deep it is."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON of such depth") from error


async def _bounded(response: httpx.Response) -> bytes:
    """The body as it came, as much of it as a sane server sends; what is packed is not unpacked."""
    content = b""
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > ANSWER_LIMIT_BYTES:
            break
    return content
