"""The ledger over HTTP. Reads work in every region, writes where the ledger is.

    POST /v1/transactions                                a transaction (``request.py``); answers its position, and
                                                         acknowledged_by: regions that have it, if some must
    GET  /v1/transactions/{id}                           what became of the transaction of an idempotency key: committed
                                                         (with its statements' places), refused (with its answer)
    PUT  /v1/tables/{table}                              declares a table: {"key": …, "key_type": …, "user": …}
    GET  /v1/tables                                      the tables
    GET  /v1/tables/{table}                              one of them
    GET  /v1/tables/{table}/documents/{key…}[?as_of=]    a document, now or as of a sequence or RFC 3339 time
    GET  /v1/tables/{table}/history/{key…}               its changes, newest first        [?limit=&cursor=]
    GET  /v1/tables/{table}/users/{user}                 a user's documents in a table    [?limit=&cursor=]
    GET  /v1/users/{user}                                a user's documents in all tables [?limit=]

A key of several fields is as many segments, in key order. Every read takes ``?after=<position>&timeout=2s`` and waits
until this region has applied the position. Every answer carries, as field ``position`` and header ``Position``, what it
is at least as new as. Errors are JSON: reason, message, place, cure. A write that comes to a region which takes none
is refused with 409 ``not_primary`` (503 and Retry-After while the ledger moves), and the field and header ``primary``
name the one that does, if it is known; 503 ``outcome_unknown`` says: send again with the same idempotency key.

Raises replicator's errors: the application around the routes turns them into answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replicator.errors import NotPrimary, Rejected
from replicator.format.position import Position
from replicator.ledger import request_body
from replicator.ledger.exact_json import read, write
from replicator.ledger.index import RepeatedRefusal
from replicator.ledger.ledger import Ledger
from replicator.ledger.outcomes import Outcomes
from replicator.ledger.presentation import describe, show_time
from replicator.ledger.reads import ReadAnswer, Reads
from replicator.ledger.tables import KeyType, TableDeclaration
from replicator.transport.body import AnyTextJSON

DECLARATION_LIMIT_BYTES = 64 * 1024
PASSING = "Idempotency-Passing"  # a header: a refusal is not this key's outcome, for the same may be sent again
_AFTER = ("after", "timeout")
_PAGE = ("limit", "cursor")


def routes(
    ledger: Ledger | None,
    reads: Reads,
    outcomes: Outcomes,
    primary: Callable[[], str | None] = lambda: None,
    *,
    is_captured: bool = False,
) -> list[Route]:
    """The routes; ``ledger`` is None on a replica, where ``primary`` gives the primary's address if it is known, and
    where the ledger is a database of its own (``is_captured``)."""
    writes = _WriteRoutes(ledger, primary, is_captured)
    read_routes = _ReadRoutes(reads, outcomes)
    return [
        Route(f"{request_body.PREFIX}/transactions", writes.transact, methods=["POST"]),
        Route(f"{request_body.PREFIX}/transactions/{{rest:path}}", read_routes.outcome, methods=["GET"]),
        Route(f"{request_body.PREFIX}/tables", read_routes.tables, methods=["GET"]),
        Route(f"{request_body.PREFIX}/tables/{{rest:path}}", writes.declare, methods=["PUT"]),
        Route(f"{request_body.PREFIX}/tables/{{rest:path}}", read_routes.in_table, methods=["GET"]),
        Route(f"{request_body.PREFIX}/users/{{rest:path}}", read_routes.of_user, methods=["GET"]),
    ]


class _WriteRoutes:
    """What changes the ledger."""

    def __init__(self, ledger: Ledger | None, primary: Callable[[], str | None], is_captured: bool) -> None:
        self._ledger = ledger
        self._primary = primary
        self._is_captured = is_captured
        self._bodies = request_body.RequestBodies()

    def _here(self) -> Ledger:
        if self._is_captured:  # no other region would take it, either: not for the way that clients follow
            message = "this region's ledger is a database of its own"
            raise Rejected("not_embedded", message, status=405, cure="write to that database")
        if self._ledger is None:
            raise NotPrimary("this region is a replica and takes no writes", self._primary())
        return self._ledger

    async def transact(self, request: Request) -> Response:
        """POST /v1/transactions."""
        ledger = self._here()
        request_body.parameters(request, ())
        body = await self._bodies.read(request, ledger.limits.request_bytes)
        try:
            answer = await ledger.submit(body, remembers_refusal=PASSING not in request.headers)
        except RepeatedRefusal as refusal:
            return AnyTextJSON(refusal.as_json(), refusal.status, {"Idempotency-Replayed": "true"})
        content: dict[str, Any] = {
            "sequence": answer.position.sequence,
            "committed_at": show_time(answer.committed_at),
            "versions": answer.versions,
        }
        if answer.id:
            content["id"] = answer.id
        if answer.acknowledged_by is not None:
            content["acknowledged_by"] = answer.acknowledged_by
        # The body of a repeated request's answer is the first one's to the letter, save how many regions have the
        # block by now; the header tells them apart.
        headers = {"Idempotency-Replayed": "true"} if answer.repeated else {}
        return _answer(answer.position, content, headers=headers)

    async def declare(self, request: Request) -> Response:
        """PUT /v1/tables/{table}."""
        ledger = self._here()
        request_body.parameters(request, ())
        _, *names = request_body.segments(request)
        if len(names) != 1:
            raise _no_route()
        declared = await ledger.declare(
            _declaration(names[0], await self._bodies.read(request, DECLARATION_LIMIT_BYTES))
        )
        return _answer(declared.position, describe(declared.definition), status=201 if declared.created else 200)


class _ReadRoutes:
    """What only reads."""

    def __init__(self, reads: Reads, outcomes: Outcomes) -> None:
        self._reads = reads
        self._outcomes = outcomes

    async def outcome(self, request: Request) -> Response:
        """GET /v1/transactions/{id}."""
        match request_body.segments(request):
            case ["transactions", id_] if id_:
                query = request_body.parameters(request, (*_PAGE, *_AFTER))
                page = request_body.limit_of(query), request_body.number_cursor_of(query)
                await self._reads.reach(request_body.after_of(query))
                return _read_answer(await self._outcomes.outcome(id_, *page))
        raise _no_route()

    async def tables(self, request: Request) -> Response:
        """GET /v1/tables."""
        query = request_body.parameters(request, _AFTER)
        return _read_answer(await self._reads.tables(request_body.after_of(query)))

    async def in_table(self, request: Request) -> Response:
        """GET /v1/tables/{table} and what lies below it."""
        match request_body.segments(request):
            case ["tables", table]:
                query = request_body.parameters(request, _AFTER)
                return _read_answer(await self._reads.table(table, request_body.after_of(query)))
            case ["tables", table, "documents", *key] if key:
                return await self._document(request, table, key)
            case ["tables", table, "history", *key] if key:
                query = request_body.parameters(request, (*_PAGE, *_AFTER))
                page = request_body.limit_of(query), request_body.change_cursor_of(query)
                return _read_answer(await self._reads.history(table, key, *page, request_body.after_of(query)))
            case ["tables", table, "users", user]:
                query = request_body.parameters(request, (*_PAGE, *_AFTER))
                page_behind = request_body.limit_of(query), request_body.key_cursor_of(query)
                answer = await self._reads.of_user(table, user, *page_behind, request_body.after_of(query))
                return _read_answer(answer)
        raise _no_route()

    async def _document(self, request: Request, table: str, key: list[str]) -> Response:
        query = request_body.parameters(request, ("as_of", *_AFTER))
        after = request_body.after_of(query)
        if "as_of" in query:
            return _read_answer(await self._reads.as_of(table, key, request_body.moment_of(query["as_of"]), after))
        return _read_answer(await self._reads.document(table, key, after))

    async def of_user(self, request: Request) -> Response:
        """GET /v1/users/{user}."""
        match request_body.segments(request):
            case ["users", user]:
                query = request_body.parameters(request, ("limit", *_AFTER))
                answer = await self._reads.of_user_everywhere(
                    user, request_body.limit_of(query), request_body.after_of(query)
                )
                return _read_answer(answer)
        raise _no_route()


def _declaration(name: str, body: bytes) -> TableDeclaration:
    fields = read(body)
    if not isinstance(fields, dict) or not set(fields) <= {"key", "key_type", "user"}:
        message = "a table is declared by an object with key, key_type and user"
        raise Rejected("bad_table", message, status=422, place="body")
    key = _names(fields.get("key"), "key")
    types = _names(fields.get("key_type", "string"), "key_type")
    user = fields.get("user")
    if not (user is None or isinstance(user, str)):
        raise Rejected("bad_table", "user is the name of a field", status=422, place="user")
    if any(kind not in ("string", "integer") for kind in types):
        raise Rejected("bad_table", "key_type is string or integer", status=422, place="key_type")
    if len(types) == 1:
        types *= len(key)
    kinds: tuple[KeyType, ...] = tuple("integer" if kind == "integer" else "string" for kind in types)
    return TableDeclaration(name, tuple(key), kinds, user)


def _names(value: Any, place: str) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise Rejected("bad_table", f"{place} is a text or a list of texts", status=422, place=place)
    return names


def _read_answer(answer: ReadAnswer) -> Response:
    content = answer.content
    for page in (content, *content.get("tables", ())):
        if isinstance(page.get("next"), list):
            page["next"] = request_body.key_cursor(page["next"])
    return _answer(answer.position, content)


def _answer(
    position: Position, content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    # A source's own JSON may hold lone surrogates: as escapes, which they were there.
    body = write({**content, "position": str(position)}).encode(errors="backslashreplace")
    return Response(body, status, {"Position": str(position), **(headers or {})}, "application/json")


def _no_route() -> Rejected:
    return Rejected("not_found", "there is nothing at this path", status=404, cure="see /v1/tables")
