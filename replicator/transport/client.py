"""One sidecar, asked over HTTP: every region, verb and tool asks through this client.

    exchange   any answer, whole
    ask        a good one, or the error that it stands for (``answer.py``)
    json       the JSON object of a good one
    content    the bytes of a good one, of a type
    stream     a good one, piece by piece

Guarantee: an answer is read within a bound of bytes and of time, the whole of it, and is never unpacked; the token goes
to the endpoint's own address and to no other; whatever happens on the way is a ReplicatorError with its place, cause
and cure. Non-goal: trying again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.cookiejar
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple, TypedDict, Unpack

import httpx
import trio

from replicator.errors import ReplicatorError
from replicator.transport.answer import (
    Answer,
    ExchangeReasons,
    bad_answer,
    check_plain,
    check_type,
    connection_fault,
    is_good,
    read_object,
    refusal,
)
from replicator.transport.endpoint import Endpoint

REFUSAL_LIMIT_BYTES = 64 * 1024
CONNECT_SECONDS = 5.0
KEPT_CONNECTIONS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """What an answer may take: ``seconds`` from the request to its last byte, ``limit_bytes`` of content, and
    ``idle_seconds`` between two pieces of it (None: the whole alone counts)."""

    seconds: float
    limit_bytes: float
    idle_seconds: float | None = None


class Request(TypedDict, total=False):
    """What a request may have: a query, a body (``fields`` as JSON, or ``content``), and bounds of its own."""

    query: Mapping[str, str | int]
    fields: Any
    content: bytes
    headers: Mapping[str, str]
    bounds: Bounds


class Client:
    """Connections to one endpoint. Use as an async context manager.

    ``bounds`` are those of a request that has none of its own; ``headers`` go with each; an idle connection is kept for
    ``keep_seconds``. Raises ConfigError if the endpoint's certificates cannot be read, Unavailable if its address
    cannot be one.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        bounds: Bounds,
        reasons: ExchangeReasons = ExchangeReasons(),  # noqa: B008  # immutable
        *,
        headers: Mapping[str, str] | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        keep_seconds: float = 5.0,
    ) -> None:
        self.endpoint = endpoint
        self._bounds, self._reasons, self._connect_seconds = bounds, reasons, connect_seconds
        own = {**(headers or {}), "Accept-Encoding": "identity"}
        if endpoint.token:
            own["Authorization"] = f"Bearer {endpoint.token}"
        with self._translated():
            self._http = httpx.AsyncClient(
                base_url=endpoint.url,
                headers=[(name.encode(), text.encode()) for name, text in own.items()],
                verify=endpoint.tls(),
                trust_env=endpoint.is_proxied,
                follow_redirects=False,  # they would take the token with them
                limits=httpx.Limits(max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=keep_seconds),
            )
        # Each answer could set another cookie, for as long as the client lives.
        self._http.cookies.jar.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def exchange(self, method: str, path: str, **request: Unpack[Request]) -> Answer:
        """The answer, a refusal, too. Raises Unavailable if none comes in time, Corrupt for a good one that is packed
        or larger than its bound."""
        bounds = request.get("bounds", self._bounds)
        with self._translated(), trio.fail_after(bounds.seconds):
            response = await self._begin(method, path, bounds, request)
            try:
                return await self._whole(response, bounds.limit_bytes)
            finally:
                await response.aclose()

    async def ask(self, method: str, path: str, **request: Unpack[Request]) -> Answer:
        """``exchange`` for a good answer. Raises Halted, Unavailable or Rejected for a refusal."""
        answer = await self.exchange(method, path, **request)
        if not answer.is_good:
            raise self.refusal(answer)
        return answer

    async def json(self, method: str, path: str, **request: Unpack[Request]) -> dict[str, Any]:
        """``ask`` for a JSON object. Raises Corrupt for another answer."""
        return read_object(await self.ask(method, path, **request), self.endpoint.place)

    async def content(self, method: str, path: str, media_type: str, **request: Unpack[Request]) -> bytes:
        """``ask`` for bytes of a type. Raises Corrupt for an answer of another."""
        answer = await self.ask(method, path, **request)
        check_type(answer.headers, media_type, self.endpoint.place)
        return answer.content

    def refusal(self, answer: Answer) -> ReplicatorError:
        """The error that an answer stands for which is not good."""
        return refusal(answer, self.endpoint, self._reasons)

    @contextlib.asynccontextmanager
    async def stream(self, path: str, media_type: str, **request: Unpack[Request]) -> AsyncIterator[AnswerStream]:
        """A good answer of a type, to be read within the block. Raises as ``ask`` and ``content`` do."""
        bounds = request.get("bounds", self._bounds)
        deadline = trio.current_time() + bounds.seconds
        begin_seconds = self._connect_seconds + (bounds.idle_seconds or bounds.seconds)
        with self._translated(), trio.fail_after(min(bounds.seconds, begin_seconds)):
            response = await self._begin("GET", path, bounds, request)
            try:
                if not is_good(response.status_code):
                    raise self.refusal(await self._whole(response, REFUSAL_LIMIT_BYTES))
                check_plain(response.headers, self.endpoint.place)
                check_type(response.headers, media_type, self.endpoint.place)
            except BaseException:
                await response.aclose()
                raise
        try:
            async with contextlib.aclosing(self._pieces(response, deadline, bounds.limit_bytes)) as pieces:
                yield AnswerStream(response.headers, pieces)
        finally:
            await response.aclose()

    async def _begin(self, method: str, path: str, bounds: Bounds, request: Request) -> httpx.Response:
        built = self._http.build_request(
            method,
            path,
            params=request.get("query") or None,
            json=request.get("fields"),
            content=request.get("content"),
            headers=request.get("headers"),
            timeout=httpx.Timeout(bounds.idle_seconds, connect=self._connect_seconds),
        )
        return await self._http.send(built, stream=True)

    async def _whole(self, response: httpx.Response, limit_bytes: float) -> Answer:
        if not is_good(response.status_code):  # of a refusal only what a sidecar would say is of interest
            return Answer(response.status_code, response.headers, await read_bounded(response, REFUSAL_LIMIT_BYTES))
        check_plain(response.headers, self.endpoint.place)
        content = await read_bounded(response, limit_bytes)
        self._check_size(len(content), limit_bytes)
        return Answer(response.status_code, response.headers, content)

    async def _pieces(
        self, response: httpx.Response, deadline: float, limit_bytes: float
    ) -> AsyncGenerator[bytes, None]:
        taken = 0
        async with contextlib.aclosing(response.aiter_raw()) as pieces:  # type: ignore[type-var]  # a generator
            while True:
                # Not around the yield: what the reader does meanwhile is not the answer's time.
                with self._translated(), trio.fail_at(deadline):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                taken += len(piece)
                self._check_size(taken, limit_bytes)
                yield piece

    def _check_size(self, size_bytes: int, limit_bytes: float) -> None:
        if size_bytes > limit_bytes:
            raise bad_answer(self.endpoint.place, f"it has more than {limit_bytes:,} bytes")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, UnicodeError, trio.TooSlowError) as error:
            raise connection_fault(error, self.endpoint, self._reasons) from error


class AnswerStream(NamedTuple):
    """The headers of an answer, and its content as it arrives; reading it raises Unavailable, or Corrupt for more than
    its bound."""

    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


async def read_bounded(response: httpx.Response, limit_bytes: float) -> bytes:
    """The content as it came, up to the piece with which it passes ``limit_bytes``."""
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > limit_bytes:
            break
    return bytes(content)
