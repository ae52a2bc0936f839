"""JSON bodies: a request's fields, for the routes of an operator's verbs, and an answer of any text.

Guarantee: what passes ``json_fields`` is a JSON object that says so (a web page elsewhere cannot send it), bounded in
size and time, with the fields that are asked for, each of its type, and no other; texts are one line each.
"""

from __future__ import annotations

import json
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse

from replicator.errors import Rejected, Unavailable

BODY_LIMIT_BYTES = 16_384
TEXT_LIMIT_CHARACTERS = 1_000
BODY_SECONDS = 10.0

Fields = dict[str, Any]


class AnyTextJSON(JSONResponse):
    """JSON of any text, also of a file's name that is not UTF-8: in ASCII, with escapes."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


async def json_fields(
    request: Request,
    needed: dict[str, type],
    optional: dict[str, type] | None = None,
    limit_bytes: int = BODY_LIMIT_BYTES,
) -> Fields:
    """The body's fields. Raises Rejected, or Unavailable if it does not come."""
    place = request.url.path
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        cure = "send Content-Type: application/json"
        raise Rejected("not_json", "the body is not said to be JSON", status=415, place=place, cure=cure)
    known = {**needed, **(optional or {})}
    try:
        fields = json.loads(await _body(request, place, limit_bytes))
    except (ValueError, RecursionError) as error:
        raise Rejected("not_json", f"the body is not JSON: {error}", place=place) from error
    if not isinstance(fields, dict) or not needed.keys() <= fields.keys() <= known.keys():
        wanted = ", ".join(known) or "no field"
        raise Rejected("bad_request", f"the body is an object with {wanted}", status=422, place=place)
    for name, value in fields.items():
        # By type, for True is an int to isinstance.
        if type(value) is not known[name] or (isinstance(value, str) and len(value) > TEXT_LIMIT_CHARACTERS):
            raise Rejected("bad_request", f"{name} is not what it should be", status=422, place=place)
        if isinstance(value, str) and not (value.isprintable() and value.strip()):
            raise Rejected("bad_request", f"{name} is a line of text", status=422, place=place)
    return fields


async def _body(request: Request, place: str, limit_bytes: int) -> bytes:
    body = bytearray()
    try:
        with trio.fail_after(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > limit_bytes:
                    message = f"the body is larger than {limit_bytes:,} bytes"
                    raise Rejected("too_large", message, status=413, place=place)
    except trio.TooSlowError as error:
        raise Unavailable("slow_body", "the body did not come in time", place=place, cure="send it again") from error
    return bytes(body)
