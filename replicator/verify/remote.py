"""Another region as a side of a comparison, over HTTP.

Guarantee: an answer that was cut off, is too large or is no answer raises Unavailable or Corrupt; it is never taken for
less rows. A silent region is given up after ``SILENCE_SECONDS``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgpack
import trio

from replicator.errors import Corrupt, Unavailable
from replicator.format.digest import Digest
from replicator.format.position import Position, genesis, parse_position
from replicator.pipeline.replicas.base import KeyedLine
from replicator.verify.evidence import BlockRef, Evidence, KeyQuestion
from replicator.verify.serve import DIGESTS, END, READ, ROWS
from replicator.verify.side import TableHead

SILENCE_SECONDS = 120.0
HOLD_SECONDS = 60
PIECE_LIMIT_BYTES = 1 << 31
ANSWER_LIMIT_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """A region's sidecar."""

    name: str
    url: str
    token: str | None = dataclasses.field(default=None, repr=False)
    ca_file: Path | None = None


class RemoteSide:
    """See ``side.Side``. Use ``remote_side`` to have one; ``rate`` is how many rows a second the region may read."""

    def __init__(self, endpoint: Endpoint, client: httpx.AsyncClient, rate: int | None) -> None:
        self.name = endpoint.name
        self.position: Position = genesis("main")
        self.tables: dict[str, TableHead] = {}
        self._endpoint = endpoint
        self._client = client
        self._rate = rate
        self._moment = ""

    async def pause(self) -> Position:
        """Hold the region's replay, so that it is not ahead of the other one; it ends by itself."""
        answer = await self._json("POST", "/v1/verify/hold", seconds=HOLD_SECONDS)
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
        try:
            self._moment = f"/v1/verify/moments/{answer['moment']}"
            self.position = parse_position(answer["position"])
            heads = [TableHead(str(t["table"]), list(t["columns"]), list(t["key"])) for t in answer["tables"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._bad(error) from error
        self.tables = {head.label: head for head in heads}

    async def end(self) -> None:
        """Let the moment go; whatever comes of it, it ends by itself soon."""
        moment, self._moment = self._moment, ""
        if moment:
            with trio.CancelScope(shield=True), trio.move_on_after(2), contextlib.suppress(Unavailable):
                await self._json("DELETE", moment)

    async def digests(self, label: str, buckets: int) -> dict[int, Digest]:
        query = {"table": label, "buckets": buckets, **({} if self._rate is None else {"rate": self._rate})}
        found: dict[int, Digest] | None = None
        async for piece in self._pieces(f"{self._moment}/digests", query):
            match piece:
                case [kind, int()] if kind == READ:
                    pass
                case [kind, list() as digests] if kind == DIGESTS:
                    found = {bucket: Digest(rows, int.from_bytes(total, "big")) for bucket, rows, total in digests}
                case _:
                    raise self._bad(piece)
        if found is None:
            raise self._cut_off()
        return found

    async def rows(self, label: str, buckets: int, wanted: Sequence[int]) -> list[KeyedLine]:
        query = {"table": label, "buckets": buckets, "in": ",".join(map(str, wanted))}
        rows: list[KeyedLine] = []
        end: int | None = None
        async for piece in self._pieces(f"{self._moment}/rows", query):
            match piece:
                case [kind, list() as some] if kind == ROWS:
                    rows += [(bytes(key), bytes(line)) for key, line in some]
                case [kind, int() as total] if kind == END:
                    end = total
                case _:
                    raise self._bad(piece)
        if end != len(rows):
            raise self._cut_off()
        return rows

    async def evidence(self, label: str, questions: Sequence[KeyQuestion]) -> list[Evidence]:
        body = msgpack.packb({"table": label, "questions": questions})
        with self._translated():
            response = await self._client.post(f"{self._moment}/evidence", content=body)
            self._check(response)
        try:
            found = [_evidence(*fields) for fields in msgpack.unpackb(response.content)]
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise self._bad(error) from error
        if len(found) != len(questions):
            raise self._cut_off()
        return found

    async def _json(self, method: str, path: str, **query: int) -> Any:
        with self._translated():
            response = await self._client.request(method, path, params=query)
            self._check(response)
            try:
                return response.json()
            except ValueError as error:
                raise self._bad(error) from error

    async def _pieces(self, path: str, query: dict[str, Any]) -> AsyncIterator[Any]:
        unpacker = msgpack.Unpacker(max_buffer_size=PIECE_LIMIT_BYTES, max_map_len=0, max_ext_len=0)
        with self._translated():
            async with self._client.stream("GET", path, params=query) as response:
                if response.status_code != 200:
                    await response.aread()
                self._check(response)
                async for data in response.aiter_raw():
                    for piece in self._unpacked(unpacker, data):
                        yield piece

    def _unpacked(self, unpacker: msgpack.Unpacker, data: bytes) -> Iterator[Any]:
        try:
            unpacker.feed(data)
            yield from unpacker
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise self._bad(error) from error

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == 200:
            return
        try:
            fields = response.json()
            reason, message, cure = str(fields["reason"]), str(fields["message"]), str(fields.get("cure", ""))
        except (ValueError, KeyError, TypeError, httpx.ResponseNotRead):
            reason, message, cure = "refused", f"status {response.status_code}", "see the region's log"
        raise Unavailable(reason, message, place=f"region {self.name}", cure=cure)

    def _bad(self, what: object) -> Corrupt:
        message = f"the region's answer cannot be read: {what!r:.200}"
        return Corrupt("bad_answer", message, place=f"region {self.name}", cure="check that both run one version")

    def _cut_off(self) -> Unavailable:
        return Unavailable("cut_off", "the region's answer broke off", place=f"region {self.name}", cure="try again")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        endpoint = self._endpoint
        try:
            yield
        except (httpx.HTTPError, ssl.SSLError) as error:
            message = f"the region cannot be read: {error or type(error).__name__}"
            cure = "check that its sidecar runs and that the address is right"
            raise Unavailable("unreachable", message, place=f"{endpoint.name} at {endpoint.url}", cure=cure) from error


@contextlib.asynccontextmanager
async def remote_side(endpoint: Endpoint, rate: int | None = None) -> AsyncIterator[RemoteSide]:
    """A region to be asked; its moment ends with the block."""
    headers = {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
    verify: ssl.SSLContext | bool = endpoint.url.startswith("https:")
    if endpoint.ca_file:
        verify = ssl.create_default_context(cafile=str(endpoint.ca_file))
    async with httpx.AsyncClient(
        base_url=endpoint.url,
        headers=headers,
        verify=verify,
        trust_env=False,
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=5),
    ) as client:
        side = RemoteSide(endpoint, client, rate)
        try:
            yield side
        finally:
            await side.end()


def _evidence(known: bool, right: bytes | None, last: Any, met: Any, following: Any, held: bool) -> Evidence:
    refs = [tuple(None if ref is None else BlockRef(*ref) for ref in some) for some in (met, following)]
    return Evidence(known, right, None if last is None else BlockRef(*last), refs[0], refs[1], held)
