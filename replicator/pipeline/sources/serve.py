"""Copying tables of a captured ledger anew, when an operator asks for it.

    POST /v1/recopy     {"tables": ["schema.table", …], "who"}: they are copied anew, as they are now; answers the
                        tables as soon as that is noted durably, and the source begins again with them

Guarantee: it asks for the token if there is one; a POST is JSON and says so, and is bounded. A region that does not
capture its ledger from a database refuses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.transport.body import json_fields

BODY_LIMIT_BYTES = 1 << 20
TABLES_LIMIT = 1_000
NAME_LIMIT_CHARACTERS = 200

Recopy = Callable[[Sequence[str], str], Awaitable[list[str]]]


def routes(recopy: Recopy | None) -> list[Route]:
    """The route; without ``recopy`` it refuses."""

    async def respond(request: Request) -> Response:
        fields = await json_fields(request, {"tables": list, "who": str}, {}, BODY_LIMIT_BYTES)
        if recopy is None:
            message = "this region does not capture its ledger from a database now"
            cure = "ask the primary"
            raise Rejected("not_captured", message, status=409, place=request.url.path, cure=cure)
        tables = fields["tables"]
        if not 0 < len(tables) <= TABLES_LIMIT or not all(map(_is_name, tables)):
            message = f"tables is a list of 1 to {TABLES_LIMIT:,} names"
            raise Rejected("bad_request", message, status=422, place="tables")
        return JSONResponse({"tables": await recopy(tables, fields["who"])})

    return [Route("/v1/recopy", respond, methods=["POST"])]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LIMIT_CHARACTERS
