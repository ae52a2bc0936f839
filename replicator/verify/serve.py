"""A region's contents over HTTP, for a comparison from outside.

    POST   /v1/verify/hold?seconds=30      replay stops where it is (ends by itself); answers the position
    DELETE /v1/verify/hold                 replay goes on
    GET    /v1/verify/contents[?at=N]      everything at one position (``stream.py``); ``at``: at just this sequence

Guarantee: no database credential leaves the region; what goes out is what the database stores, in canonical text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.replicas.base import Reader
from replicator.verify.moments import Moment, Moments
from replicator.verify.stream import Row, TableHead, pack_contents

HOLD_LIMIT_SECONDS = 300


def routes(moments: Moments) -> list[Route]:
    """The verification's part of the HTTP surface."""

    async def hold(request: Request) -> Response:
        if request.method == "DELETE":
            moments.release()
            return JSONResponse({"held": False})
        seconds = _whole(request.query_params.get("seconds", "30"), "seconds")
        position = await moments.pause(min(seconds, HOLD_LIMIT_SECONDS))
        return JSONResponse({"held": True, "position": str(position)})

    async def contents(request: Request) -> Response:
        asked = request.query_params.get("at")
        moment = await moments.fix(None if asked is None else _whole(asked, "at"))
        return StreamingResponse(_stream(moment), media_type="application/msgpack")

    return [
        Route("/v1/verify/hold", hold, methods=["POST", "DELETE"]),
        Route("/v1/verify/contents", contents, methods=["GET"]),
    ]


async def _stream(moment: Moment) -> AsyncIterator[bytes]:
    pieces = pack_contents(moment.position, _tables(moment.reader))
    try:
        while (piece := await trio.to_thread.run_sync(next, pieces, None)) is not None:
            yield piece
    finally:
        moment.reader.close()


def _tables(reader: Reader) -> Iterator[tuple[TableHead, Iterator[Row]]]:
    for definition in reader.tables():
        names = [column.name for column in definition.columns]
        yield TableHead(definition.label, names, list(definition.key)), reader.rows(definition.label)


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise Rejected("bad_request", f"{name} is a whole number, not {text[:64]!r}", place=name)
    return int(text)
