"""The sidecar's one HTTP server: all routes, one listener, one way for errors to leave.

Guarantee: whatever fails behind a route leaves as JSON ``{reason, message, place, cure}`` with a fitting status, never
as a traceback; a route that is not public asks for the bearer token if one is configured. TLS if a certificate is
configured. Hypercorn speaks HTTP; this file only says what and where.
"""

from __future__ import annotations

import dataclasses
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence, Set
from pathlib import Path

import hypercorn.trio
import trio
from hypercorn.config import Config as HypercornConfig
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from replicator.errors import ConfigError, Halted, NotPrimary, Rejected, ReplicatorError, Unavailable
from replicator.transport.body import AnyTextJSON

GRACEFUL_SECONDS = 1.0
KEEP_SECONDS = 75.0  # an idle connection; longer than other regions keep theirs, so that none is closed under a report


@dataclasses.dataclass(frozen=True, slots=True)
class Listen:
    """Where the server listens. ``token`` guards everything but the public paths, if given."""

    host: str
    port: int
    certificate_file: Path | None = None
    key_file: Path | None = None
    token: str | None = dataclasses.field(default=None, repr=False)

    @property
    def address(self) -> str:
        """``host:port`` as written in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def application(routes: Sequence[BaseRoute], token: str | None, public: Set[str] = frozenset()) -> ASGIApp:
    """The ASGI application of these routes. With a token, only the paths ``public`` are open to whoever has none."""
    app = Starlette(
        routes=routes,
        exception_handlers={ReplicatorError: _error, HTTPException: _http_error, Exception: _internal},
    )
    return _TokenGuard(app, token, public) if token else app


async def serve(
    app: ASGIApp,
    listen: Listen,
    shutdown: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``shutdown`` returns. Raises ConfigError if the address cannot be taken."""
    check_address(listen)
    config = HypercornConfig()
    config.bind = [listen.address]
    config.accesslog = None
    config.errorlog = logging.getLogger("replicator.http")
    config.graceful_timeout = GRACEFUL_SECONDS  # feeds never end by themselves; followers come back
    config.keep_alive_timeout = KEEP_SECONDS
    config.certfile = str(listen.certificate_file) if listen.certificate_file else None
    config.keyfile = str(listen.key_file) if listen.key_file else None
    logging.getLogger("replicator.http").setLevel(logging.WARNING)
    await hypercorn.trio.serve(app, config, shutdown_trigger=shutdown, task_status=task_status, mode="asgi")  # type: ignore[arg-type]  # Hypercorn's own ASGI types


def check_address(listen: Listen) -> None:
    """Raise ConfigError if the address cannot be taken: the server itself would name neither place nor cure."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # As the server itself binds: connections that a sidecar just left must not keep its successor away.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listen.host, listen.port))
    except OSError as error:
        raise ConfigError(
            "cannot_listen",
            f"the address cannot be taken: {error.strerror}",
            place=f"[http] listen = {listen.address}",
            cure="end the program that holds the port, or name another address",
        ) from error


class _TokenGuard:
    """Asks for the bearer token on every path that is not public."""

    def __init__(self, app: ASGIApp, token: str, public: Set[str]) -> None:
        self._app = app
        self._public = public
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._public or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        refusal = Rejected(
            "unauthorised", "the bearer token is missing or wrong", status=401, place=scope["path"][:200]
        )
        await _answer(refusal, 401)(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        # Of two headers a proxy may have checked the other one. Compared in constant time, which tells nothing.
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)


async def _error(_: Request, error: Exception) -> Response:
    match error:
        case NotPrimary():
            answer = _answer(error, error.status, error.retry_after)
            if error.primary:
                answer.headers["Primary"] = error.primary
            return answer
        case Rejected():
            return _answer(error, error.status, error.retry_after)
        case Unavailable():
            return _answer(error, 503, 1)
        case Halted():
            return _answer(error, 503)
        case ReplicatorError():
            return _answer(error, 500)
        case _:
            raise error


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    refusal = Rejected(reason, str(error.detail), status=error.status_code, place=request.url.path[:200])
    answer = _answer(refusal, error.status_code)
    # Starlette says with 405 which methods there are (Allow).
    answer.headers.update(error.headers or {})
    return answer


async def _internal(request: Request, _: Exception) -> Response:
    """Our own fault: Starlette raises it on, so the log has the traceback; the caller hears only this."""
    fault = ReplicatorError(
        "internal", "this is a fault of the sidecar; its log says more", place=request.url.path[:200]
    )
    return _answer(fault, 500)


def _answer(error: ReplicatorError, status: int, retry_after: int | None = None) -> Response:
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    return AnyTextJSON(error.as_json(), status_code=status, headers=headers)
