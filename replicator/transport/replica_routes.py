"""Routes of what only a replica region has.

Guarantee: the paths exist in every role; on a primary each of them says why there is nothing to ask for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.transport.body import Fields

Part = TypeVar("Part")
Answer = Callable[[Request, Part], Awaitable[Fields]]


def replica_routes(
    part: Part | None,
    answers: Sequence[tuple[str, str, Answer[Part]]],
    *,
    message: str,
    status: int = 404,
    strand: str | None = None,
) -> list[Route]:
    """Routes (method, path, answer) to a part. Without it, on a primary, each is refused with this message and status;
    with ``strand`` each answer names it."""

    def endpoint(answer: Answer[Part]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            if part is None:
                cure = "ask a replica region"
                raise Rejected("not_a_replica", message, status=status, place=request.url.path, cure=cure)
            fields = await answer(request, part)
            return JSONResponse(fields if strand is None else {"strand": strand, **fields})

        return respond

    return [Route(path, endpoint(answer), methods=[method]) for method, path, answer in answers]
