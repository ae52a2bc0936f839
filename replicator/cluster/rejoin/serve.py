"""Orphans over HTTP, for an operator of the region that has them.

    GET  /v1/orphans                   what is sealed here, with counts by verdict and how much of it is not handled
    GET  /v1/orphans/{id}              one of them, its transactions judged by now     [?after=&limit=&verdict=]
    POST /v1/orphans/{id}/reapply      {"who", "transactions"?: [sequence, …], "apply"?: false}: send what is clean to
                                       the primary; without "apply" say what would be sent
    POST /v1/orphans/{id}/settle       {"who", "why", "transactions"?}: a person has dealt with these
    POST /v1/orphans/take              {"orphan", "who", "rows"}: a PostgreSQL primary carries out another region's

Guarantee: all of it asks for the token if there is one; a POST is JSON and says so, is bounded, and answers only when
what it did is durable. Errors are JSON: reason, message, place, cure.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replicator.cluster.rejoin.conflict_check import VERDICTS
from replicator.cluster.rejoin.orphan_receiver import OrphanReceiver
from replicator.cluster.rejoin.orphans import PAGE_LIMIT, Orphans
from replicator.errors import Rejected
from replicator.format.position import MAX_SEQUENCE
from replicator.ledger.request_body import parameters
from replicator.transport.body import AnyTextJSON, Fields, json_fields

PAGE_DEFAULT = 100
BODY_LIMIT_BYTES = 32 << 20
NAMES_LIMIT = 10_000
log = logging.getLogger("replicator")


def routes(orphans: Orphans, receiver: Callable[[], OrphanReceiver] | None = None) -> list[Route]:
    """The routes. ``receiver``, called anew each time, gives where a PostgreSQL primary carries orphans out."""
    served = _OrphanRoutes(orphans, receiver)
    return [
        _route("/v1/orphans", served.listed, "GET"),
        _route("/v1/orphans/take", served.take, "POST"),
        _route("/v1/orphans/{id}", served.show, "GET"),
        _route("/v1/orphans/{id}/reapply", served.reapply, "POST"),
        _route("/v1/orphans/{id}/settle", served.settle, "POST"),
    ]


def _route(path: str, answer: Callable[[Request], Awaitable[Fields]], method: str) -> Route:
    async def endpoint(request: Request) -> Response:
        return AnyTextJSON(await answer(request))

    return Route(path, endpoint, methods=[method])


class _OrphanRoutes:
    def __init__(self, orphans: Orphans, receiver: Callable[[], OrphanReceiver] | None) -> None:
        self._orphans = orphans
        self._receiver = receiver

    async def listed(self, request: Request) -> Fields:
        """GET /v1/orphans."""
        parameters(request, ())
        return await self._orphans.listed()

    async def show(self, request: Request) -> Fields:
        """GET /v1/orphans/{id}."""
        given = parameters(request, ("after", "limit", "verdict"))
        verdict = given.get("verdict")
        if verdict is not None and verdict not in VERDICTS:
            raise Rejected("bad_parameter", f"a verdict is one of {', '.join(VERDICTS)}", place="verdict")
        after, limit = _number(given, "after", 0, MAX_SEQUENCE), _number(given, "limit", PAGE_DEFAULT, PAGE_LIMIT)
        return await self._orphans.show(request.path_params["id"], after, limit, verdict)

    async def reapply(self, request: Request) -> Fields:
        """POST /v1/orphans/{id}/reapply."""
        fields = await json_fields(request, {"who": str}, {"transactions": list, "apply": bool}, BODY_LIMIT_BYTES)
        apply, seal = bool(fields.get("apply", False)), request.path_params["id"]
        result = await self._orphans.reapply(seal, _sequences(fields), fields["who"], apply=apply)
        if apply:
            done = sum(1 for transaction in result["transactions"] if transaction["outcome"] == "re-applied")
            log.warning("orphans %s: %d transactions were re-applied by %s", seal, done, fields["who"])
        return result

    async def settle(self, request: Request) -> Fields:
        """POST /v1/orphans/{id}/settle."""
        fields = await json_fields(request, {"who": str, "why": str}, {"transactions": list}, BODY_LIMIT_BYTES)
        seal = request.path_params["id"]
        result = await self._orphans.settle(seal, _sequences(fields), fields["who"], fields["why"])
        log.warning("orphans %s: %d were settled by %s", seal, len(result["settled"]), fields["who"])
        return result

    async def take(self, request: Request) -> Fields:
        """POST /v1/orphans/take."""
        if self._receiver is None:
            message = "this region is no PostgreSQL primary: it takes no orphans"
            raise Rejected("not_primary", message, status=409, place=request.url.path, cure="ask the primary region")
        fields = await json_fields(request, {"orphan": str, "who": str, "rows": list}, None, BODY_LIMIT_BYTES)
        rows = fields["rows"]
        if not 0 < len(rows) <= NAMES_LIMIT or not all(_is_change(change) for change in rows):
            raise Rejected("bad_request", "rows is a list of changes", status=422, place="rows")
        taken = await trio.to_thread.run_sync(lambda receiver: receiver().take(rows), self._receiver)
        log.warning("orphan %s of %s: %s", fields["orphan"], fields["who"], "taken" if taken else "was there already")
        return {"taken": taken}


def _number(given: Any, name: str, default: int, most: int) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= most):
        raise Rejected("bad_parameter", f"a whole number of at most {most:,}", place=name)
    return int(text)


def _sequences(fields: Fields) -> list[int]:
    sequences = fields.get("transactions", [])
    if len(sequences) > NAMES_LIMIT or not all(
        type(sequence) is int and 0 < sequence <= MAX_SEQUENCE for sequence in sequences
    ):
        raise Rejected("bad_request", "a list of sequences", status=422, place="transactions")
    return list(sequences)


def _is_change(change: object) -> bool:
    match change:
        case {"table": str(), "key": dict() as key, "before": before, "after": after, **rest} if not rest and key:
            return all(row is None or _is_row(row) for row in (key, before, after))
    return False


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and all(text is None or isinstance(text, str) for text in row.values())
