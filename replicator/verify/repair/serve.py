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

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.transport.body import Fields, json_fields
from replicator.verify.repair.key_repair import KeyRepair
from replicator.verify.repair.resync import Resync
from replicator.verify.repair.resync import ResyncRequest as Asked

BODY_LIMIT_BYTES = 16 << 20
NAMES_LIMIT = 10_000
TEXT_LIMIT_CHARACTERS = 8_192


class RepairParts(NamedTuple):
    """The parts that rewrite keys of a replica; ``repaired`` hears that keys were written."""

    repairs: KeyRepair
    resync: Resync
    repaired: Callable[[], None]


def routes(rewriting: RepairParts | None) -> list[Route]:
    """The routes; without the parts (on a primary) each refuses."""
    asked: list[tuple[str, str, Callable[[Request, RepairParts], Awaitable[Fields]]]] = [
        ("POST", "/v1/repair", _repair),
        ("GET", "/v1/resync", _show),
        ("POST", "/v1/resync", _start),
        ("POST", "/v1/resync/cancel", _cancel),
    ]
    return [Route(path, _endpoint(rewriting, answer), methods=[method]) for method, path, answer in asked]


def _endpoint(
    rewriting: RepairParts | None, answer: Callable[[Request, RepairParts], Awaitable[Fields]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if rewriting is None:
            message = "this region is the primary: its tables are its users', and its journal is made from them"
            cure = "ask a replica region"
            raise Rejected("not_a_replica", message, status=409, place=request.url.path, cure=cure)
        return JSONResponse(await answer(request, rewriting))

    return endpoint


async def _repair(request: Request, rewriting: RepairParts) -> Fields:
    fields = await json_fields(request, {"keys": list, "keyless": list, "who": str}, {"apply": bool}, BODY_LIMIT_BYTES)
    keys = fields["keys"]
    if len(keys) > NAMES_LIMIT or not all(_is_named(one) for one in keys):
        raise _bad("keys", f"a list of at most {NAMES_LIMIT:,} [table, [key texts]]")
    named = [(table, texts) for table, texts in keys]
    keyless = _names(fields, "keyless") or []
    apply = bool(fields.get("apply", False))
    done = await rewriting.repairs.repair(named, keyless, fields["who"], apply=apply)
    if apply:
        rewriting.repaired()
    return done


async def _show(request: Request, rewriting: RepairParts) -> Fields:
    job = rewriting.resync.job
    return {"job": None if job is None else job.as_json()}


async def _start(request: Request, rewriting: RepairParts) -> Fields:
    optional = {"until": int, "tables": list, "users": list, "plan": bool}
    fields = await json_fields(request, {"since": int, "who": str}, optional, BODY_LIMIT_BYTES)
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


async def _cancel(request: Request, rewriting: RepairParts) -> Fields:
    await json_fields(request, {})
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
