"""The role's part of the flow that runs now: at most one, started and stopped while the sidecar stays.

Guarantee: a pipeline is stopped whole, each of its steps seen through and its files closed, before another one starts.
HTTP goes on meanwhile: what belongs to a pipeline that is gone is answered as Unavailable, with Retry-After.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio
from starlette.routing import BaseRoute, Match, Router
from starlette.types import Receive, Scope, Send

from replicator.config import Config
from replicator.errors import Unavailable
from replicator.runtime.primary_pipeline import PrimaryPipeline
from replicator.runtime.replica_pipeline import ReplicaPipeline
from replicator.runtime.role_pipeline import RolePipeline


class RoleRunner:
    """Runs one pipeline after another; ``build`` makes the one for a configuration in a role. ``run`` first."""

    def __init__(self, build: Callable[[Config], RolePipeline]) -> None:
        self.pipeline: RolePipeline | None = None
        self._build = build
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()
        self._router = Router(default=_between_roles)
        self.admit: Callable[[Scope], Awaitable[None]] = _at_once

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run whatever pipeline is started, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @property
    def is_running(self) -> bool:
        """Whether a pipeline runs."""
        return self.pipeline is not None

    @property
    def primary(self) -> PrimaryPipeline | None:
        """The pipeline that runs, if it is a primary's."""
        return self.pipeline if isinstance(self.pipeline, PrimaryPipeline) else None

    @property
    def replica(self) -> ReplicaPipeline | None:
        """The pipeline that runs, if it is a replica's."""
        return self.pipeline if isinstance(self.pipeline, ReplicaPipeline) else None

    def start(self, config: Config) -> None:
        """Start the pipeline for the role in this configuration; none may run."""
        self.launch(self._build(config))

    def launch(self, pipeline: RolePipeline) -> None:
        """The same for a pipeline that was built already."""
        assert self.pipeline is None, "one pipeline at a time"
        assert self._nursery is not None
        self.pipeline = pipeline
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self._router = Router(pipeline.routes)
        self._nursery.start_soon(self._run, pipeline, self._scope, self._ended)

    async def stop(self) -> None:
        """Stop the pipeline that runs, if one does; returns when all of it has ended."""
        self._scope.cancel()
        self._router = Router(default=_between_roles)  # at once: an ending pipeline takes no new requests
        # Shielded: whoever stops a role acts on that it has ended (gives up the lease, opens the replica for itself). A
        # cancelled wait would say so too early, and the steps that have begun are seen through anyway.
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    async def _run(self, pipeline: RolePipeline, scope: trio.CancelScope, ended: trio.Event) -> None:
        # The scope is this pipeline's own: a role is cancelled, while the runner's nursery stays for the next one. An
        # error of the pipeline goes through to the nursery, and ends the process: a bug leaves no role without a stage.
        try:
            with scope:
                await pipeline.run()
        finally:
            pipeline.close()
            self.pipeline = None
            ended.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: the routes of the pipeline that runs, once ``admit`` lets the request in."""
        await self.admit(scope)
        await self._router(scope, receive, send)


class RoleRoutes(BaseRoute):
    """Everything that no lasting route takes goes to the pipeline that runs at that moment: the server's own list of
    routes never changes."""

    def __init__(self, runner: RoleRunner) -> None:
        self._runner = runner

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whatever is asked for over HTTP."""  # ASGI's lifespan messages belong to the server
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on."""
        await self._runner(scope, receive, send)


async def _at_once(scope: Scope) -> None:
    """Nobody waits."""


async def _between_roles(scope: Scope, receive: Receive, send: Send) -> None:
    raise Unavailable("changing_role", "the region is changing its role", cure="ask again in a moment")


def with_role_routes(lasting: Sequence[BaseRoute], runner: RoleRunner) -> list[BaseRoute]:
    """The lasting routes, and behind them those of the pipeline that runs."""
    return [*lasting, RoleRoutes(runner)]
