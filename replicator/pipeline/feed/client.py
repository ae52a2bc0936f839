"""The feed's asking end: one upstream, over HTTP.

Guarantee: what comes out is frames that proved themselves, in the order they were sent; a refusal comes out as the
reason that the server gave; a connection from which no whole frame comes for ``idle_seconds`` is Unavailable, never a
wait without end, and so is one that gives what cannot be read: nothing of that was used, and whatever stands between
two regions may garble one answer. Non-goals: order across connections and gaps (the settle buffer's), trying again
(``follow``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import trio

from replicator.errors import Corrupt, Rejected, Unavailable
from replicator.format.position import Position, parse_position
from replicator.format.wire import (
    CONTENT_TYPE,
    HEARTBEAT_HEADER,
    ID_HEADER,
    PROMPT,
    REPORTS_HEADER,
    TROUBLE,
    Frame,
    FrameReader,
)
from replicator.transport.answer import ExchangeReasons, bad_answer
from replicator.transport.client import AnswerStream, Bounds, Client
from replicator.transport.endpoint import Endpoint

ANSWER_LIMIT_BYTES = 64 * 1024
SLOWEST_BYTES_A_SECOND = 1 << 20  # one large frame may take as long as its bytes do at this pace
KEEP_SECONDS = 30  # an idle connection: who waits for a report should not wait for a handshake, too
REASONS = ExchangeReasons("feed_unreachable", "feed_silent", "feed_unauthorised")


@dataclasses.dataclass(frozen=True, slots=True)
class Upstream:
    """Where the feed comes from. ``token`` is the bearer token if the server asks for one, ``ca_file`` the authority
    that signed its certificate if it is not a public one, ``region`` what this region calls itself, ``id`` what tells
    it from another one that calls itself so."""

    url: str
    region: str
    token: str | None = dataclasses.field(default=None, repr=False)
    ca_file: Path | None = None
    idle_seconds: float = 10.0
    connect_seconds: float = 5.0
    token_key: str = "[follow] token"  # the settings that both come from
    ca_key: str = "[follow] ca ="
    id: str = ""

    @property
    def endpoint(self) -> Endpoint:
        """The sidecar there."""
        return Endpoint("", self.url, self.token, self.ca_file, self.token_key, self.ca_key)

    @property
    def headers(self) -> dict[str, str]:
        """What tells the sidecar there who asks."""
        told = {"Feed-Region": self.region, HEARTBEAT_HEADER: TROUBLE}
        return {**told, ID_HEADER: self.id} if self.id else told


class FeedClient:
    """Connections to one upstream. Use as an async context manager."""

    def __init__(self, upstream: Upstream) -> None:
        self.reports_wanted = trio.Event()  # set while the upstream asks for prompt ones; replaced when it does not
        self._place = upstream.url
        self._idle_seconds = upstream.idle_seconds
        self._http = Client(
            upstream.endpoint,
            Bounds(upstream.idle_seconds, ANSWER_LIMIT_BYTES),
            REASONS,
            headers=upstream.headers,
            connect_seconds=upstream.connect_seconds,
            keep_seconds=KEEP_SECONDS,
        )
        # A stream has no end, and each of its frames a bound of its own.
        self._endless = Bounds(math.inf, math.inf, upstream.idle_seconds)

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
            answer = await self._http.json("GET", f"/feed/v1/{strand}/positions/{sequence}")
        except Rejected as refusal:
            if refusal.reason == "no_such_position":
                return None
            raise
        with self._readable():
            return parse_position(answer["position"])

    async def ends(self, strand: str) -> tuple[Position, Position]:
        """The end of the upstream's chain, and where its journal begins."""
        answer = await self._http.json("GET", f"/feed/v1/{strand}/positions/head")
        with self._readable():
            return parse_position(answer["position"]), parse_position(answer["base"])

    async def report(self, position: Position) -> None:
        """Tell the upstream that this region has everything up to ``position`` durably. Raises Rejected, with the
        reason ``not_found`` where the upstream takes no reports."""
        path = f"/feed/v1/{position.strand}/received"
        try:
            answer = await self._http.ask("POST", path, fields={"position": str(position)})
        except Rejected as refusal:
            if refusal.status in (404, 405) and refusal.reason != "unknown_strand":
                raise Rejected("not_found", "no reports are taken", status=404, place=self._place) from refusal
            raise
        self._hear_wish(answer.headers)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise bad_answer(self._place, f"it has no such position: {error!r}") from error

    @contextlib.asynccontextmanager
    async def _streaming(self, strand: str, query: dict[str, str | int]) -> AsyncIterator[Frames]:
        path = f"/feed/v1/{strand}"
        async with contextlib.AsyncExitStack() as stack:
            try:
                streaming = self._http.stream(path, CONTENT_TYPE, query=query, bounds=self._endless)
                stream = await stack.enter_async_context(streaming)
            except Corrupt as error:
                raise _garbled(error, self._place) from error
            self._hear_wish(stream.headers)
            yield Frames(stream, self._place, self._idle_seconds)

    def _hear_wish(self, headers: Mapping[str, str]) -> None:
        """Whether the upstream asks for prompt reports: its last answer counts."""
        wanted = headers.get(REPORTS_HEADER) == PROMPT
        if wanted:
            self.reports_wanted.set()
        elif self.reports_wanted.is_set():
            self.reports_wanted = trio.Event()


class Frames:
    """The frames of one stream, in batches as they arrive."""

    def __init__(self, stream: AnswerStream, place: str, idle_seconds: float) -> None:
        self._pieces = stream.pieces
        self._place = place
        self._idle_seconds = idle_seconds
        self._reader = FrameReader()

    async def batches(self) -> AsyncIterator[list[Frame]]:
        """Each piece of the body that arrives, as the frames that it completed. Ends when the server closes.

        Raises Unavailable: the connection broke, no whole frame came for too long, or what came cannot be read.
        """
        whole_at, pending_bytes = trio.current_time(), 0
        async for data in self._pieces:
            if batch := self._read(data):
                yield batch
                whole_at, pending_bytes = trio.current_time(), 0
                continue
            # Bytes alone are no sign of life: behind a length that is none all that comes would be one frame for ever.
            pending_bytes += len(data)
            seconds = self._idle_seconds + pending_bytes / SLOWEST_BYTES_A_SECOND
            if trio.current_time() - whole_at > seconds:
                message = f"{pending_bytes:,} bytes came, and no whole frame within {seconds:.0f} s"
                raise Unavailable("feed_silent", message, place=self._place, cure="it is opened again")

    def _read(self, data: bytes) -> list[Frame]:
        try:
            self._reader.feed(data)
            return list(self._reader)
        except Corrupt as error:
            raise _garbled(error, self._place) from error


def _garbled(error: Corrupt, place: str) -> Unavailable:
    """What came and cannot be read. Nothing of it was used: every frame proves itself, so it can be asked for again."""
    cure = "it is asked for again; if that does not help, see what stands between the regions and whose the address is"
    return Unavailable(error.reason, error.message, place=error.place or place, cure=cure)
