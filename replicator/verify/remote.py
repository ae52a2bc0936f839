"""Another region as a side of a comparison, over HTTP.

Guarantee: an answer that was cut off, is too large or is no answer raises Unavailable or Corrupt; it is never taken for
less rows. What is asked for is read within a bound of bytes and of time; a silent region is given up after
``SILENCE_SECONDS``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgpack
import trio

from replicator.errors import Corrupt, ReplicatorError, Unavailable
from replicator.format.digest import HASH_BYTES, Digest
from replicator.format.position import MAX_SEQUENCE, Position, genesis, parse_position
from replicator.pipeline.replicas.base import KeyedLine
from replicator.transport.client import Bounds, Client
from replicator.transport.endpoint import Endpoint
from replicator.verify.evidence import BlockRef, Evidence, KeyQuestion
from replicator.verify.serve import DIGESTS, END, MEDIA_TYPE, READ, ROWS, UNREAD
from replicator.verify.side import TableHead, TableUnread

SILENCE_SECONDS = 120.0
HOLD_SECONDS = 60
TEXT_LIMIT = 2_000  # characters
_TOLD = ("reason", "message", "place", "cure")
ANSWER_LIMIT_BYTES = 64 << 20
ROWS_LIMIT_BYTES = 1 << 31  # a field has at most 1 GB
ELEMENTS_LIMIT = 1 << 20
EVIDENCE_SECONDS, ROWS_SECONDS = 600.0, 3_600.0
DIGESTS_SECONDS = 7 * 86_400.0  # a large table at a gentle pace


class RemoteSide:
    """See ``side.Side``. Use ``remote_side`` to have one; ``rate`` is how many rows a second the region may read."""

    def __init__(self, endpoint: Endpoint, client: Client, rate: int | None) -> None:
        self.name = endpoint.name
        self.position: Position = genesis("main")
        self.tables: dict[str, TableHead] = {}
        self._client = client
        self._rate = rate
        self._moment = ""

    async def pause(self) -> Position:
        """Hold the region's replay, so that it is not ahead of the other one; it ends by itself."""
        answer = await self._json("POST", "/v1/verify/hold", seconds=HOLD_SECONDS)
        with self._readable():
            return parse_position(answer["position"])

    async def go_on(self) -> None:
        """Let replay go on."""
        await self._json("DELETE", "/v1/verify/hold")

    async def ask_for_scrub(self) -> None:
        """Tell the region that a difference was seen."""
        await self._json("POST", "/v1/verify/scrub")

    async def fix(self, at: int | None) -> None:
        """Fix the moment that everything is asked of; ends the one before."""
        await self.end()
        answer = await self._json("POST", "/v1/verify/moments", **({} if at is None else {"at": at}))
        with self._readable():
            self._moment = f"/v1/verify/moments/{answer['moment']}"
            self.position = parse_position(answer["position"])
            heads = [
                TableHead(str(t["table"]), _names(t["columns"]), _names(t["key"]), str(t.get("flaw", ""))[:TEXT_LIMIT])
                for t in answer["tables"]
            ]
        self.tables = {head.label: head for head in heads}

    async def end(self) -> None:
        """Let the moment go; whatever comes of it, it ends by itself soon."""
        moment, self._moment = self._moment, ""
        if moment:
            with trio.CancelScope(shield=True), trio.move_on_after(2), contextlib.suppress(ReplicatorError):
                await self._json("DELETE", moment)

    async def digests(self, label: str, buckets: int) -> dict[int, Digest]:
        query: dict[str, str | int] = {"table": label, "buckets": buckets}
        if self._rate is not None:
            query["rate"] = self._rate
        found: dict[int, Digest] | None = None
        bounds = Bounds(DIGESTS_SECONDS, ANSWER_LIMIT_BYTES, SILENCE_SECONDS)
        async for piece in self._pieces("digests", query, bounds):
            match piece:
                case [kind, int()] if kind == READ:
                    pass
                case [kind, list() as digests] if kind == DIGESTS:
                    with self._readable():
                        found = dict(_digest(buckets, *fields) for fields in digests)
                case [kind, dict() as fields] if kind == UNREAD:
                    raise _unread(fields)
                case _:
                    raise self._bad(piece)
        if found is None:
            raise self._cut_off()
        return found

    async def rows(self, label: str, buckets: int, wanted: Sequence[int]) -> list[KeyedLine]:
        query: dict[str, str | int] = {"table": label, "buckets": buckets, "in": ",".join(map(str, wanted))}
        rows: list[KeyedLine] = []
        end: int | None = None
        async for piece in self._pieces("rows", query, Bounds(ROWS_SECONDS, ROWS_LIMIT_BYTES, SILENCE_SECONDS)):
            match piece:
                case [kind, list() as some] if kind == ROWS:
                    with self._readable():
                        rows += [_keyed_line(*fields) for fields in some]
                case [kind, int() as total] if kind == END:
                    end = total
                case [kind, dict() as told] if kind == UNREAD:
                    raise _unread(told)
                case _:
                    raise self._bad(piece)
        if end != len(rows):
            raise self._cut_off()
        return rows

    async def evidence(self, label: str, questions: Sequence[KeyQuestion]) -> list[Evidence]:
        body = msgpack.packb({"table": label, "questions": questions})
        bounds = Bounds(EVIDENCE_SECONDS, ANSWER_LIMIT_BYTES, SILENCE_SECONDS)
        path = f"{self._moment}/evidence"
        answer = await self._client.content("POST", path, MEDIA_TYPE, content=body, bounds=bounds)
        with self._readable():
            found = [_evidence(*fields) for fields in msgpack.unpackb(answer)]
        if len(found) != len(questions):
            raise self._cut_off()
        return found

    async def _json(self, method: str, path: str, **query: int) -> dict[str, Any]:
        return await self._client.json(method, path, query=query)

    async def _pieces(self, what: str, query: dict[str, str | int], bounds: Bounds) -> AsyncIterator[Any]:
        # An array's header is five bytes that can ask for gigabytes.
        unpacker = msgpack.Unpacker(
            max_buffer_size=int(bounds.limit_bytes), max_array_len=ELEMENTS_LIMIT, max_map_len=4, max_ext_len=0
        )
        async with self._client.stream(f"{self._moment}/{what}", MEDIA_TYPE, query=query, bounds=bounds) as stream:
            async for data in stream.pieces:
                with self._readable():
                    unpacker.feed(data)
                    pieces = list(unpacker)
                for piece in pieces:
                    yield piece

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, msgpack.UnpackException) as error:
            raise self._bad(error) from error

    def _bad(self, what: object) -> Corrupt:
        message = f"the region's answer cannot be read: {what!r:.200}"
        return Corrupt("bad_answer", message, place=f"region {self.name}", cure="check that both run one version")

    def _cut_off(self) -> Unavailable:
        return Unavailable("cut_off", "the region's answer broke off", place=f"region {self.name}", cure="try again")


@contextlib.asynccontextmanager
async def remote_side(endpoint: Endpoint, rate: int | None = None) -> AsyncIterator[RemoteSide]:
    """A region to be asked; its moment ends with the block."""
    async with Client(endpoint, Bounds(SILENCE_SECONDS, ANSWER_LIMIT_BYTES)) as client:
        side = RemoteSide(endpoint, client, rate)
        try:
            yield side
        finally:
            await side.end()


def _unread(fields: dict[Any, Any]) -> TableUnread:
    reason, message, place, cure = (str(fields.get(name, ""))[:TEXT_LIMIT] for name in _TOLD)
    return TableUnread(reason, message, place=place, cure=cure)


def _names(names: Any) -> list[str]:
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError("a list of names is needed")
    return names


def _digest(buckets: int, bucket: Any, rows: Any, total: Any) -> tuple[int, Digest]:
    if not (type(bucket) is int and 0 <= bucket < buckets and type(rows) is int and 0 < rows <= MAX_SEQUENCE):
        raise ValueError("a digest's numbers")
    if not (type(total) is bytes and len(total) == HASH_BYTES):
        raise ValueError("a digest's sum")
    return bucket, Digest(rows, int.from_bytes(total, "big"))


def _keyed_line(key: Any, line: Any) -> KeyedLine:
    if not (type(key) is bytes and type(line) is bytes):
        raise ValueError("a row that is none")
    return key, line


def _evidence(known: bool, right: bytes | None, last: Any, met: Any, following: Any, held: bool) -> Evidence:
    if not (right is None or type(right) is bytes):
        raise ValueError("a line that is none")
    refs = [tuple(map(_block_ref, some)) for some in (met, following)]
    return Evidence(bool(known), right, _block_ref(last), refs[0], refs[1], bool(held))


def _block_ref(fields: Any) -> BlockRef | None:
    if fields is None:
        return None
    sequence, txid, committed_at = fields
    if not (type(sequence) is int and type(txid) is str and type(committed_at) is int):
        raise ValueError("a block that is none")
    return BlockRef(sequence, txid, committed_at)
