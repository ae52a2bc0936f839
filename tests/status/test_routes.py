"""The observing routes over real HTTP: 200 or 503 to GET, HEAD and OPTIONS, and nothing that a balancer trips over."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry

from replicator.status.metrics import Metrics
from replicator.status.model import ReplicaView, Snapshot
from replicator.status.routes import ROLE_PATHS, STATUS_PATHS, routes
from replicator.transport.server import Listen, application, serve
from tests.servers import free_port
from tests.status import samples

Client = httpx.AsyncClient


class Switched:
    """A status source whose snapshot a test replaces."""

    def __init__(self) -> None:
        self.current = samples.healthy()

    def snapshot(self) -> Snapshot:
        return self.current


@asynccontextmanager
async def serving(source: Switched) -> AsyncIterator[Client]:
    registry = CollectorRegistry()
    Metrics(registry, source)
    stop = trio.Event()
    listen = Listen("127.0.0.1", free_port())
    wait: Callable[[], Awaitable[None]] = stop.wait
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, application(routes(source, registry), None), listen, wait)
        async with Client(base_url=f"http://{listen.address}", timeout=10) as client:
            yield client
        stop.set()


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("healthy", {"/readiness": 200, "/primary": 503, "/replica": 200, "/health": 200}),
        ("cut_off", {"/readiness": 503, "/primary": 503, "/replica": 503, "/health": 200}),
        ("halted", {"/readiness": 503, "/primary": 503, "/replica": 503, "/health": 503}),
        ("primary", {"/readiness": 200, "/primary": 200, "/replica": 503, "/health": 200}),
        ("copying", {"/readiness": 503, "/primary": 200, "/replica": 503, "/health": 200}),
    ],
)
async def test_role_urls_answer_each_method_alike(name: str, answers: dict[str, int]) -> None:
    source = Switched()
    source.current = getattr(samples, name)()
    async with serving(source) as client:
        for path, status in {**answers, "/liveness": 200}.items():
            for method in ("GET", "HEAD", "OPTIONS"):
                response = await client.request(method, path)
                assert response.status_code == status, (method, path)
                assert bool(response.content) == (method == "GET")
                assert response.headers["cache-control"] == "no-store"
            body = (await client.get(path)).json()
            assert body["ok"] == (status == 200)
            assert body["ok"] or body["blocked"]["reason"]


async def test_every_path_answers_each_method_and_no_other() -> None:
    async with serving(Switched()) as client:
        for path in ROLE_PATHS | STATUS_PATHS:
            got = await client.get(path)
            head = await client.head(path)
            options = await client.options(path)
            assert got.status_code == head.status_code == options.status_code, path
            assert not head.content + options.content
            assert options.headers["allow"] == "GET, HEAD, OPTIONS"
            assert (await client.post(path)).status_code == 405


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("?lag=10s", 200),
        ("?lag=1ms", 503),
        ("?lag=60", 200),
        ("?lag=59", 503),
        ("?lag=10&mode=settled", 200),
        ("?mode=applied", 200),
        ("?lag=soon", 400),
        ("?lag=", 400),
        ("?lag=-5", 400),
        ("?lag=9999999999999999999", 400),
        ("?mode=guessed", 400),
    ],
)
async def test_readiness_takes_a_lag_and_a_mode(query: str, status: int) -> None:
    async with serving(Switched()) as client:
        response = await client.get("/readiness" + query)
        assert response.status_code == status
        if status == 400:
            assert response.json()["cure"]


async def test_status_cluster_and_history_are_json() -> None:
    source = Switched()
    source.current = samples.primary()
    async with serving(source) as client:
        assert (await client.get("/v1/status")).json()["region"] == "paris"
        assert [member["name"] for member in (await client.get("/cluster")).json()["members"]][1:] == [
            "tokyo",
            "virginia",
        ]
        (event,) = (await client.get("/history")).json()
        assert (event["kind"], event["role"], event["epoch"]) == ("start", "primary", 3)


async def test_metrics_in_both_formats() -> None:
    async with serving(Switched()) as client:
        plain = await client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain")
        assert 'replicator_applied_sequence{region="tokyo",strand="main"} 104140.0' in plain.text
        open_metrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
        assert open_metrics.text.endswith("# EOF\n")


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    async with serving(Switched()) as client:
        response = await client.get("/")
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert "src=" not in response.text
        assert "<link" not in response.text


async def test_a_failing_snapshot_is_an_error_and_not_a_healthy_answer() -> None:
    class Broken(Switched):
        def snapshot(self) -> Snapshot:
            raise RuntimeError("our own bug")

    source = Switched()
    registry = CollectorRegistry()
    Metrics(registry, source)
    app = application(routes(Broken(), registry), None)
    async with Client(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://x") as client:
        assert (await client.get("/health")).status_code == 500


async def test_a_file_whose_name_is_not_utf8_does_not_break_the_status() -> None:
    source = Switched()
    source.current = dataclasses.replace(samples.healthy(), replica=ReplicaView("sqlite", "/data/k\udce9/r.db"))
    async with serving(source) as client:
        assert (await client.get("/v1/status")).json()["replica"]["place"] == "/data/k\udce9/r.db"
        assert (await client.get("/")).status_code == 200
