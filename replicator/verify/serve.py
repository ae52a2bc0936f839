"""A region's contents over HTTP, for a comparison from outside.

    POST   /v1/verify/hold?seconds=30                 replay stops where it is (ends by itself); answers the position
    DELETE /v1/verify/hold                            replay goes on
    POST   /v1/verify/scrub                           a difference was seen: a replica is to scrub soon
    POST   /v1/verify/moments[?at=N]                  fixes a moment (``at``: just this sequence) and keeps it; answers
                                                      its name, its position and its tables
    DELETE /v1/verify/moments/{moment}                ends it; it ends by itself a minute after the last request
    GET    /v1/verify/moments/{moment}/digests?table=T&buckets=B[&rate=ROWS]
                                                      a table's digests by bucket (``format/digest.py``), read at so
                                                      many rows a second: [1 READ, rows so far] …, [2 DIGESTS, [[bucket,
                                                      rows, sum], …]]
    GET    /v1/verify/moments/{moment}/rows?table=T&buckets=B&in=3,17
                                                      the rows of these buckets: [3 ROWS, [[key line, line], …]] …,
                                                      [4 END, rows]
                                                      Either may end with [5 UNREAD, {reason, message, place, cure}]:
                                                      this table cannot be read now
    POST   /v1/verify/moments/{moment}/evidence       {"table", "questions": [[key line, [line or null, …]], …]}: what
                                                      the journal says of these keys, see ``evidence.py``

The streams are msgpack arrays one after another; one that was cut off lacks its last. Guarantee: no database credential
leaves the region; what goes out is what the database stores, as canonical lines (``format/canonical.py``).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable

import msgpack
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.format.digest import BUCKETS_LIMIT, HASH_BYTES, TableDigest
from replicator.pipeline.replicas.moments import Moments
from replicator.transport.query import whole_number
from replicator.verify.evidence import KeyQuestion
from replicator.verify.moment_sessions import MomentSessions
from replicator.verify.side import LocalSide, Pace, TableUnread

HOLD_LIMIT_SECONDS = 300
READ, DIGESTS, ROWS, END, UNREAD = range(1, 6)
MEDIA_TYPE = "application/msgpack"
BODY_LIMIT_BYTES = 64 << 20
SIGN_SECONDS = 1.0  # at least this often a long count shows that it goes on


def routes(moments: Moments, sessions: MomentSessions, ask_for_scrub: Callable[[], None]) -> list[Route]:
    """The verification's part of the HTTP surface."""

    async def hold(request: Request) -> Response:
        if request.method == "DELETE":
            moments.release()
            return JSONResponse({"held": False})
        seconds = whole_number(request.query_params.get("seconds", "30"), "seconds")
        position = await moments.pause(min(seconds, HOLD_LIMIT_SECONDS))
        return JSONResponse({"held": True, "position": str(position)})

    async def scrub(request: Request) -> Response:
        ask_for_scrub()
        return JSONResponse({"asked": True})

    async def begin(request: Request) -> Response:
        at = request.query_params.get("at")
        name, side = await sessions.begin(None if at is None else whole_number(at, "at"))
        tables = [{"table": h.label, "columns": h.columns, "key": h.key, "flaw": h.flaw} for h in side.tables.values()]
        return JSONResponse({"moment": name, "position": str(side.position), "tables": tables})

    async def end(request: Request) -> Response:
        await sessions.end(request.path_params["moment"])
        return JSONResponse({"ended": True})

    async def digests(request: Request) -> Response:
        label, buckets = await _checked(sessions, request), _buckets(request)
        rate = request.query_params.get("rate")
        pace = Pace(math.inf if rate is None else max(1, whole_number(rate, "rate")))
        answer = _digests(sessions, request.path_params["moment"], pace, label, buckets)
        return StreamingResponse(answer, media_type=MEDIA_TYPE)

    async def rows(request: Request) -> Response:
        label, buckets = await _checked(sessions, request), _buckets(request)
        wanted = [whole_number(text, "in") for text in request.query_params.get("in", "").split(",") if text]
        answer = _rows(sessions, request.path_params["moment"], label, buckets, wanted)
        return StreamingResponse(answer, media_type=MEDIA_TYPE)

    async def evidence(request: Request) -> Response:
        label, questions = await _questions(request)
        async with sessions.use(request.path_params["moment"], Pace(math.inf)) as side:
            _check_table(side, label)
            found = await side.evidence(label, questions)
        return Response(msgpack.packb(found), media_type=MEDIA_TYPE)

    moment = "/v1/verify/moments/{moment}"
    return [
        Route("/v1/verify/hold", hold, methods=["POST", "DELETE"]),
        Route("/v1/verify/scrub", scrub, methods=["POST"]),
        Route("/v1/verify/moments", begin, methods=["POST"]),
        Route(moment, end, methods=["DELETE"]),
        Route(f"{moment}/digests", digests, methods=["GET"]),
        Route(f"{moment}/rows", rows, methods=["GET"]),
        Route(f"{moment}/evidence", evidence, methods=["POST"]),
    ]


async def _checked(sessions: MomentSessions, request: Request) -> str:
    """The table that is asked for: what does not exist is refused before an answer begins."""
    label = request.query_params.get("table", "")
    async with sessions.use(request.path_params["moment"], Pace(math.inf)) as side:
        _check_table(side, label)
    return label


async def _digests(sessions: MomentSessions, name: str, pace: Pace, label: str, buckets: int) -> AsyncIterator[bytes]:
    digest, read, told_at = TableDigest(label, buckets), 0, trio.current_time()
    async with sessions.use(name, pace) as side:
        try:
            async for rows in side.collect(digest, label):
                read += rows
                if trio.current_time() >= told_at + SIGN_SECONDS:
                    told_at = trio.current_time()
                    yield msgpack.packb((READ, read))
        except TableUnread as error:  # the answer has begun: what it is goes with it
            yield msgpack.packb((UNREAD, error.as_json()))
            return
    found = digest.buckets().items()
    yield msgpack.packb((DIGESTS, [(bucket, d.rows, d.sum.to_bytes(HASH_BYTES, "big")) for bucket, d in found]))


async def _rows(
    sessions: MomentSessions, name: str, label: str, buckets: int, wanted: list[int]
) -> AsyncIterator[bytes]:
    sent = 0
    async with sessions.use(name, Pace(math.inf)) as side:
        try:
            async for rows in side.pick(label, buckets, wanted):
                sent += len(rows)
                yield msgpack.packb((ROWS, rows))
        except TableUnread as error:
            yield msgpack.packb((UNREAD, error.as_json()))
            return
    yield msgpack.packb((END, sent))


async def _questions(request: Request) -> tuple[str, list[KeyQuestion]]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_LIMIT_BYTES:
            raise Rejected("too_large", "too many questions at once", status=413, place="questions")
    try:
        fields = msgpack.unpackb(body)
        questions = [KeyQuestion(bytes(key), tuple(lines)) for key, lines in fields["questions"]]
        return str(fields["table"]), questions
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        message = f"the questions cannot be read: {error!r:.200}"
        raise Rejected("bad_request", message, place="questions") from error


def _check_table(side: LocalSide, label: str) -> None:
    if label not in side.tables:
        raise Rejected("unknown_table", "this region has no such table", status=404, place=f"table {label[:200]}")


def _buckets(request: Request) -> int:
    buckets = whole_number(request.query_params.get("buckets", "1"), "buckets")
    if not 1 <= buckets <= BUCKETS_LIMIT or buckets & (buckets - 1):
        raise Rejected("bad_request", f"buckets is a power of two up to {BUCKETS_LIMIT}", place="buckets")
    return buckets
