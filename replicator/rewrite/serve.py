"""Repair and resync over HTTP, for an operator of a replica region.

    POST /v1/repair            {"keys": [[table, [key texts]], …], "keyless": [table, …], "who", "apply": false}
                               compares these keys, and all rows of the keyless tables, with the journal; writes what
                               differs if "apply"; answers each key's state and the report's file
    GET  /v1/resync            the resync that is under way, or the last one; its job is null if there was none
    POST /v1/resync            {"since", "who", "until"?, "tables"?, "users"?, "plan"?}: begin; times in µs since 1970
    POST /v1/resync/cancel     {}: stop after the keys that are under way

Guarantee: all of it asks for the token if there is one; a POST is JSON and says so (a web page elsewhere cannot send
it), is bounded, and answers only when what it did is durable. Errors are JSON: reason, message, place, cure. On a
primary each is refused: nobody else may write to a ledger.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.errors import Rejected, Unavailable
from replicator.rewrite.repair import Repairs
from replicator.rewrite.resync import Request as Asked
from replicator.rewrite.resync import Resync

BODY_LIMIT_BYTES = 16 << 20
BODY_SECONDS = 30.0
NAMES_LIMIT = 10_000
TEXT_LIMIT_CHARACTERS = 8_192

Fields = dict[str, Any]


class Rewriting(NamedTuple):
    """The parts that rewrite keys of a replica."""

    repairs: Repairs
    resync: Resync


def routes(rewriting: Rewriting | None) -> list[Route]:
    """The routes; without the parts (on a primary) each refuses."""
    asked: list[tuple[str, str, Callable[[Request, Rewriting], Awaitable[Fields]]]] = [
        ("POST", "/v1/repair", _repair),
        ("GET", "/v1/resync", _show),
        ("POST", "/v1/resync", _start),
        ("POST", "/v1/resync/cancel", _cancel),
    ]
    return [Route(path, _endpoint(rewriting, answer), methods=[method]) for method, path, answer in asked]


def _endpoint(
    rewriting: Rewriting | None, answer: Callable[[Request, Rewriting], Awaitable[Fields]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if rewriting is None:
            message = "this region is the primary: its tables are its users', and its journal is made from them"
            cure = "ask a replica region"
            raise Rejected("not_a_replica", message, status=409, place=request.url.path, cure=cure)
        return JSONResponse(await answer(request, rewriting))

    return endpoint


async def _repair(request: Request, rewriting: Rewriting) -> Fields:
    fields = await _fields(request, {"keys": list, "keyless": list, "who": str}, {"apply": bool})
    keys = fields["keys"]
    if len(keys) > NAMES_LIMIT or not all(_is_named(one) for one in keys):
        raise _bad("keys", f"a list of at most {NAMES_LIMIT:,} [table, [key texts]]")
    named = [(table, texts) for table, texts in keys]
    keyless = _names(fields, "keyless") or []
    return await rewriting.repairs.repair(named, keyless, fields["who"], apply=bool(fields.get("apply", False)))


async def _show(request: Request, rewriting: Rewriting) -> Fields:
    job = rewriting.resync.job
    return {"job": None if job is None else job.as_json()}


async def _start(request: Request, rewriting: Rewriting) -> Fields:
    optional = {"until": int, "tables": list, "users": list, "plan": bool}
    fields = await _fields(request, {"since": int, "who": str}, optional)
    until = fields.get("until")
    if any(not -(2**62) < time < 2**62 for time in (fields["since"], until or 0)):
        raise _bad("since, until", "µs since 1970")
    asked = Asked(
        fields["since"],
        until,
        _names(fields, "tables"),
        _names(fields, "users"),
        fields["who"],
        bool(fields.get("plan", False)),
    )
    return {"job": (await rewriting.resync.start(asked)).as_json()}


async def _cancel(request: Request, rewriting: Rewriting) -> Fields:
    await _fields(request, {}, {})
    return {"job": rewriting.resync.cancel().as_json()}


def _is_named(one: object) -> bool:
    match one:
        case [str() as table, [*texts]]:
            return all(isinstance(text, str) and len(text) <= TEXT_LIMIT_CHARACTERS for text in [table, *texts])
    return False


def _names(fields: Fields, name: str) -> list[str] | None:
    names = fields.get(name)
    if names is None:
        return None
    if len(names) > NAMES_LIMIT or not all(isinstance(one, str) and len(one) <= TEXT_LIMIT_CHARACTERS for one in names):
        raise _bad(name, "a list of names")
    return list(names)


def _bad(name: str, wanted: str) -> Rejected:
    return Rejected("bad_request", f"{name} is not what it should be: {wanted}", status=422, place=name)


async def _fields(request: Request, needed: dict[str, type], optional: dict[str, type]) -> Fields:
    """The body's fields, each of its type, and no other. Raises Rejected."""
    place = request.url.path
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        cure = "send Content-Type: application/json"
        raise Rejected("not_json", "the body is not said to be JSON", status=415, place=place, cure=cure)
    known = {**needed, **optional}
    try:
        fields = json.loads(await _body(request, place))
    except (ValueError, RecursionError) as error:
        raise Rejected("not_json", f"the body is not JSON: {error}", place=place) from error
    if not isinstance(fields, dict) or not needed.keys() <= fields.keys() <= known.keys():
        raise _bad("the body", f"an object with {', '.join(known) or 'no field'}")
    for name, value in fields.items():
        if type(value) is not known[name] or (isinstance(value, str) and not 0 < len(value) <= TEXT_LIMIT_CHARACTERS):
            raise _bad(name, known[name].__name__)
    return fields


async def _body(request: Request, place: str) -> bytes:
    body = bytearray()
    try:
        with trio.fail_after(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > BODY_LIMIT_BYTES:
                    message = f"the body is larger than {BODY_LIMIT_BYTES:,} bytes"
                    raise Rejected("too_large", message, status=413, place=place)
    except trio.TooSlowError as error:
        raise Unavailable("slow_body", "the body did not come in time", place=place, cure="send it again") from error
    return bytes(body)
