"""Regions of a cluster within this process: real files, real HTTP, the lease in a shared file. A region can die at
any of its controller's steps, and started again on what is durable."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import trio

from replicator.cluster.failover.admission import Admission
from replicator.cluster.failover.controller import Controller
from replicator.cluster.failover.serve import routes as failover_routes
from replicator.config import Config, parse
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.runtime.controlled_region import controller
from replicator.runtime.primary_pipeline import EmbeddedPrimaryPipeline
from replicator.runtime.replica_pipeline import ReplicaPipeline
from replicator.runtime.role_pipeline import RolePipeline
from replicator.runtime.role_runner import RoleRunner, with_role_routes
from replicator.storage.data_dir import locked
from replicator.storage.journal.store import Journal
from replicator.transport.server import application, serve
from tests.servers import free_port

PATIENCE_SECONDS = 120.0


class Killed(Exception):
    """The region dies here."""


class Region:
    """One region. ``run`` runs it until it is cancelled, or killed at the step that ``dies_at`` numbers."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.name = config.region.name
        self.url = config.url
        self.controller: Controller | None = None
        self.steps: list[str] = []
        self.dies_at: int | None = None
        self.died: str | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def start(self, nursery: trio.Nursery) -> None:
        """Start it; returns when it listens."""
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        await nursery.start(self._run)

    async def stop(self) -> None:
        """End it, wherever it is."""
        self._scope.cancel()
        await self._ended.wait()

    async def ended(self) -> None:
        """Return once it has ended."""
        await self._ended.wait()

    def _probe(self, step: str) -> None:
        self.steps.append(step)
        if self.dies_at is not None and len(self.steps) > self.dies_at:
            self.died, self.dies_at = step, None
            raise Killed(step)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                await self._serve(task_status)
        except* Killed:
            pass
        finally:
            self.controller = None
            self._ended.set()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        with locked(self.config.region.files), _opened(Journal(self.config.region.files.journal)) as journal:
            context = RegionContext(self.config, journal)
            runner = RoleRunner(_builder(context))
            self.controller = decides = controller(context, runner, self._probe)
            runner.admit = Admission(decides.member)
            await trio.to_thread.run_sync(context.history.open)
            app = application(with_role_routes([*context.routes(), *failover_routes(decides)], runner), None)
            async with trio.open_nursery() as nursery:
                await nursery.start(runner.run)
                await nursery.start(serve, app, wiring.listen(self.config), trio.sleep_forever)
                task_status.started()
                nursery.start_soon(decides.run)

    def state(self) -> str:
        """Its state, if it runs."""
        return "" if self.controller is None else self.controller.member.memory.state.value

    def head(self) -> tuple[int, int]:
        """The epoch and sequence of its journal's end."""
        assert self.controller is not None
        head = self.controller.member.region.journal_head.position
        return head.epoch, head.sequence

    @property
    def leads(self) -> bool:
        """Whether it is primary, and open."""
        return self.controller is not None and self.state() == "primary" and self.controller.member.lease.is_open


def _builder(core: RegionContext) -> Callable[[Config], RolePipeline]:
    return lambda config: (ReplicaPipeline if config.region.role == "replica" else EmbeddedPrimaryPipeline)(
        core, config
    )


def cluster(directory: Path, names: tuple[str, ...] = ("paris", "tokyo"), failover: str = "") -> dict[str, Region]:
    """Regions that name each other; the first is configured as primary."""
    directory.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in names}
    regions = ", ".join(f'{name} = "http://127.0.0.1:{port}"' for name, port in ports.items())
    found = {}
    for name, port in ports.items():
        text = f"""
[region]
name = "{name}"
role = "{"primary" if name == names[0] else "replica"}"
data_dir = "{name}"
[http]
listen = "127.0.0.1:{port}"
[source]
kind = "embedded"
[[source.tables]]
name = "wallets"
key = "wallet_id"
[cluster]
regions = {{ {regions} }}
[lease]
kind = "static"
path = "lease.json"
ttl = "3s"
margin = "200ms"
[failover]
mode = "automatic"
quiet = "100ms"
suspect = "1500ms"
{failover}
"""
        (directory / f"{name}.toml").write_text(text)
        found[name] = Region(parse(text, directory / f"{name}.toml", {}))
    return found


async def write(url: str, wallet: str) -> None:
    """Write a wallet at whoever leads; returns when it is acknowledged."""
    body = {"id": wallet, "statements": [{"table": "wallets", "op": "insert", "document": {"wallet_id": wallet}}]}
    async with httpx.AsyncClient(trust_env=False) as client:
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.post(f"{url}/v1/transactions", json=body)
                    if answer.status_code == 200:
                        return
                    url = answer.json().get("primary") or url
                await trio.sleep(0.02)


async def has(url: str, wallet: str) -> bool:
    """Whether a region shows this wallet."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{url}/v1/tables/wallets/documents/{wallet}")
        return answer.status_code == 200


async def order(url: str, **fields: Any) -> None:
    """Give a region an order."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{url}/v1/failover/orders", json=fields)
        assert answer.status_code == 202, answer.text


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    with trio.move_on_after(PATIENCE_SECONDS) as time:
        while not condition():  # noqa: ASYNC110  # plain facts, that set no event
            await trio.sleep(0.02)
    assert not time.cancelled_caught, f"it did not come about: {what}"


async def converged(regions: dict[str, Region]) -> None:
    """Wait until one region leads, and every other one follows it to the same place."""

    def done() -> bool:
        running = list(regions.values())
        if not all(region.controller for region in running):
            return False
        states = sorted(region.state() for region in running)
        others = ["following"] * (len(running) - 1)
        return states == [*others, "primary"] and len({region.head() for region in running}) == 1

    what = ", ".join(f"{region.name} {region.state()}" for region in regions.values())
    await until(done, f"one primary and the others equal; now {what}")


@contextlib.asynccontextmanager
async def running(regions: dict[str, Region]) -> AsyncIterator[trio.Nursery]:
    """Start them, and end them all at the end."""
    async with trio.open_nursery() as nursery:
        for region in regions.values():
            await region.start(nursery)
        yield nursery
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def _opened(journal: Journal) -> Iterator[Journal]:
    journal.open()
    try:
        yield journal
    finally:
        journal.close()
