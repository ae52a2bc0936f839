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

from collections.abc import Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.transport.body import Fields, json_fields
from replicator.transport.replica_routes import replica_routes
from replicator.verify.repair.key_repair import KeyRepair
from replicator.verify.repair.resync import Resync
from replicator.verify.repair.resync_job import ResyncRequest

BODY_LIMIT_BYTES = 16 << 20
NAMES_LIMIT = 10_000
TEXT_LIMIT_CHARACTERS = 8_192


class RepairParts(NamedTuple):
    """What repairs keys of a replica; ``on_repaired`` is called when keys may have been written."""

    repairs: KeyRepair
    resync: Resync
    on_repaired: Callable[[], None]


def routes(parts: RepairParts | None) -> list[Route]:
    """The routes; without the parts (on a primary) each refuses."""
    answers = [
        ("POST", "/v1/repair", _repair),
        ("GET", "/v1/resync", _show_resync),
        ("POST", "/v1/resync", _start_resync),
        ("POST", "/v1/resync/cancel", _cancel_resync),
    ]
    message = "this region is the primary: its tables are its users', and its journal is made from them"
    return replica_routes(parts, answers, message=message, status=409)


async def _repair(request: Request, parts: RepairParts) -> Fields:
    fields = await json_fields(request, {"keys": list, "keyless": list, "who": str}, {"apply": bool}, BODY_LIMIT_BYTES)
    keys = fields["keys"]
    if len(keys) > NAMES_LIMIT or not all(map(_is_named_key, keys)):
        raise _bad_field("keys", f"a list of at most {NAMES_LIMIT:,} [table, [key texts]]")
    named_keys = [(table, texts) for table, texts in keys]
    keyless = _names(fields, "keyless") or []
    apply = bool(fields.get("apply", False))
    answer = await parts.repairs.repair(named_keys, keyless, fields["who"], apply=apply)
    if apply:
        parts.on_repaired()
    return answer


async def _show_resync(request: Request, parts: RepairParts) -> Fields:
    job = parts.resync.job
    return {"job": None if job is None else job.as_json()}


async def _start_resync(request: Request, parts: RepairParts) -> Fields:
    optional = {"until": int, "tables": list, "users": list, "plan": bool}
    fields = await json_fields(request, {"since": int, "who": str}, optional, BODY_LIMIT_BYTES)
    until = fields.get("until")
    if any(not -(2**62) < time < 2**62 for time in (fields["since"], until or 0)):
        raise _bad_field("since, until", "µs since 1970")
    tables, users = _names(fields, "tables"), _names(fields, "users")
    resync = ResyncRequest(fields["since"], until, tables, users, fields["who"], bool(fields.get("plan", False)))
    return {"job": (await parts.resync.start(resync)).as_json()}


async def _cancel_resync(request: Request, parts: RepairParts) -> Fields:
    await json_fields(request, {})
    return {"job": parts.resync.cancel().as_json()}


def _is_named_key(value: object) -> bool:
    match value:
        case [str() as table, [*texts]]:
            return all(isinstance(text, str) and len(text) <= TEXT_LIMIT_CHARACTERS for text in [table, *texts])
    return False


def _names(fields: Fields, name: str) -> list[str] | None:
    names = fields.get(name)
    if names is None:
        return None
    if len(names) > NAMES_LIMIT or not all(
        isinstance(text, str) and len(text) <= TEXT_LIMIT_CHARACTERS for text in names
    ):
        raise _bad_field(name, "a list of names")
    return list(names)


def _bad_field(name: str, wanted: str) -> Rejected:
    return Rejected("bad_request", f"{name} is not what it should be: {wanted}", status=422, place=name)
