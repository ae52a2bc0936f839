"""The half that runs now: at most one, started and stopped while the sidecar stays.

Guarantee: a half is stopped whole, each of its steps seen through and its files closed, before another one starts. HTTP
goes on meanwhile: what belongs to a half that is gone is answered as Unavailable, with Retry-After.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio
from starlette.routing import BaseRoute, Match, Router
from starlette.types import Receive, Scope, Send

from replicator.errors import Unavailable
from replicator.runtime.roles.pipeline import RolePipeline


class RoleRunner:
    """Runs one half after another. ``run`` first."""

    def __init__(self) -> None:
        self.half: RolePipeline | None = None
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()
        self._router = Router(default=_between_halves)
        self.admit: Callable[[Scope], Awaitable[None]] = _at_once

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run whatever half is started, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def start(self, half: RolePipeline) -> None:
        """Start a half; none may run."""
        assert self.half is None, "one half at a time"
        assert self._nursery is not None
        self.half = half
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self._router = Router(half.routes)
        self._nursery.start_soon(self._run, half, self._scope, self._ended)

    async def stop(self) -> None:
        """Stop the half that runs, if one does; returns when all of it has ended."""
        self._scope.cancel()
        self._router = Router(default=_between_halves)
        with trio.CancelScope(shield=True):  # what has begun is seen through anyway
            await self._ended.wait()

    async def _run(self, half: RolePipeline, scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                await half.run()
        finally:
            half.close()
            self.half = None
            ended.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: the routes of the half that runs, once ``admit`` lets the request in."""
        await self.admit(scope)
        await self._router(scope, receive, send)


class RoleRoutes(BaseRoute):
    """Everything that no lasting route takes goes to the half that runs."""

    def __init__(self, running: RoleRunner) -> None:
        self._running = running

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whatever is asked for over HTTP."""
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on."""
        await self._running(scope, receive, send)


async def _at_once(scope: Scope) -> None:
    """Nobody waits."""


async def _between_halves(scope: Scope, receive: Receive, send: Send) -> None:
    raise Unavailable("changing_role", "the region is changing its role", cure="ask again in a moment")


def with_half(lasting: Sequence[BaseRoute], running: RoleRunner) -> list[BaseRoute]:
    """The lasting routes, and behind them those of the half that runs."""
    return [*lasting, RoleRoutes(running)]
