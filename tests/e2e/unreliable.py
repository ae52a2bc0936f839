"""A network between two sidecars that cannot be relied on: a process that passes a feed on and misbehaves by a seed.

    python -m tests.e2e.unreliable --listen PORT --upstream URL --seed N

It reads the feed's frames and drops blocks, sends some twice, moves some up to 200 places back, and cuts connections in
the middle of a frame. Answers to requests for a range misbehave too, less often. ``GET /misdeeds`` counts what was
done. Everything but the feed is passed on as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import random
from collections.abc import AsyncIterator, Sequence

import httpx
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from replicator.format.block import Block
from replicator.format.wire import (
    DefinitionFrame,
    End,
    Frame,
    FrameReader,
    Heartbeat,
    StagedPart,
    pack_block,
    pack_definition_frame,
    pack_end,
    pack_heartbeat,
    pack_part,
)
from replicator.transport.server import Listen, application, serve


class Cut(Exception):
    """The connection ends here, in the middle of a frame."""


@dataclasses.dataclass
class Misdeeds:
    """What was done so far."""

    dropped: int = 0
    doubled: int = 0
    displaced: int = 0
    cut: int = 0


class Misbehaviour:
    """What becomes of one stream's frames; ``rate`` 1 is the live stream's."""

    def __init__(self, draws: random.Random, misdeeds: Misdeeds, rate: float) -> None:
        self._draws = draws
        self._misdeeds = misdeeds
        self._rate = rate
        self._blocks = 0
        self._cut_at = draws.expovariate(rate / 800)
        self._displaced: list[tuple[int, Block]] = []  # the count of blocks at which it goes on

    def apply(self, frames: Sequence[Frame]) -> bytes:
        """The frames that go on now, as bytes. Raises Cut with the bytes that go before the end."""
        out = b"".join(pack(one) for frame in frames for one in self._after(frame))
        if self._blocks >= self._cut_at:
            self._misdeeds.cut += 1
            raise Cut(out[: len(out) // 2])
        return out

    def _after(self, frame: Frame) -> list[Frame]:
        if isinstance(frame, Heartbeat):  # a quiet feed catches up with what it had displaced
            late: list[Frame] = [block for _, block in self._displaced]
            self._displaced.clear()
            return [frame, *late]
        if not isinstance(frame, Block):
            return [frame]
        self._blocks += 1
        late = [block for due, block in self._displaced if due <= self._blocks]
        self._displaced = [(due, block) for due, block in self._displaced if due > self._blocks]
        return [*self._fate(frame), *late]

    def _fate(self, block: Block) -> list[Block]:
        draw = self._draws.random() / self._rate
        if draw < 0.01:
            self._misdeeds.dropped += 1
            return []
        if draw < 0.02:
            self._misdeeds.doubled += 1
            return [block, block]
        if draw < 0.04:
            self._misdeeds.displaced += 1
            self._displaced.append((self._blocks + self._draws.randint(1, 200), block))
            return []
        return [block]


def pack(frame: Frame) -> bytes:
    """A frame as it came."""
    match frame:
        case Block():
            return pack_block(frame)
        case StagedPart(sequence, number, part):
            return pack_part(sequence, number, part)
        case Heartbeat():
            return pack_heartbeat(frame)
        case DefinitionFrame(relation, data):
            return pack_definition_frame(relation, data)
        case End(reason):
            return pack_end(reason)


class Network:
    """The requests that go through."""

    def __init__(self, upstream: str, seed: int) -> None:
        self._http = httpx.AsyncClient(base_url=upstream, trust_env=False, timeout=10)
        self._draws = random.Random(seed)
        self.misdeeds = Misdeeds()

    def routes(self) -> list[Route]:
        """Everything."""
        return [
            Route("/misdeeds", self._tell),
            Route("/feed/v1/{strand}", self._feed),
            Route("/{rest:path}", self._pass),
        ]

    async def _tell(self, _: Request) -> Response:
        return JSONResponse(dataclasses.asdict(self.misdeeds))

    async def _pass(self, request: Request) -> Response:
        try:
            answer = await self._http.get(request.url.path, params=request.query_params)
        except httpx.HTTPError:
            return Response(status_code=502)
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    async def _feed(self, request: Request) -> Response:
        region = {"Feed-Region": request.headers.get("feed-region", "")}
        path = self._http.build_request("GET", request.url.path, params=request.query_params, headers=region)
        try:
            answer = await self._http.send(path, stream=True)
        except httpx.HTTPError:
            return Response(status_code=502)
        if answer.status_code != 200:
            content = await answer.aread()
            return Response(content, answer.status_code, media_type="application/json")
        rate = 0.2 if "until" in request.query_params else 1.0
        misbehaviour = Misbehaviour(random.Random(self._draws.random()), self.misdeeds, rate)
        media_type = answer.headers.get("content-type")  # by which a follower knows a feed
        return StreamingResponse(_frames(answer, misbehaviour), media_type=media_type)


async def _frames(answer: httpx.Response, misbehaviour: Misbehaviour) -> AsyncIterator[bytes]:
    """What goes on. An exception after the first bytes makes the server close the connection without an end."""
    reader = FrameReader()
    try:
        async for data in answer.aiter_raw():
            reader.feed(data)
            frames = list(reader)
            try:
                sent = misbehaviour.apply(frames)
            except Cut as cut:
                yield cut.args[0]
                raise
            yield sent
    finally:
        with trio.CancelScope(shield=True):
            await answer.aclose()


async def run(port: int, upstream: str, seed: int) -> None:
    """Serve until the process is ended."""
    network = Network(upstream, seed)
    await serve(application(network.routes(), None), Listen("127.0.0.1", port), trio.sleep_forever)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    logging.disable()  # every cut would be a traceback
    trio.run(run, arguments.listen, arguments.upstream, arguments.seed)


if __name__ == "__main__":
    main()
