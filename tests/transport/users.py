"""Everybody who asks another region over HTTP, each as a call that a test can make against any address."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from replicator.cluster.decisions.model import Order
from replicator.cluster.failover import peers
from replicator.cluster.rejoin import primary_client
from replicator.config import Config, load
from replicator.errors import Rejected, Unavailable
from replicator.format.position import genesis
from replicator.ops.cli import client as cli
from replicator.ops.drills import canary, canary_writers
from replicator.ops.drills import regions as drills
from replicator.ops.drills.rules.observations import AWAY
from replicator.ops.drills.rules.plan import CanaryPlan
from replicator.ops.preflight import cluster
from replicator.ops.preflight.feed import check_feed
from replicator.pipeline.copies import client as copying
from replicator.pipeline.feed import client as feed
from replicator.pipeline.feed.client import FeedClient, Upstream
from replicator.transport.endpoint import Endpoint
from replicator.verify import remote
from replicator.verify.evidence import KeyQuestion
from tests.transport import users

TOKEN = "sesame"
SECONDS = 5.0
LIMIT_BYTES = 300_000

User = Callable[[str], Awaitable[None]]
ORPHAN: dict[str, Any] = {"statements": [], "request": None, "hash": "ab" * 32}


BOUNDS: dict[ModuleType, list[str]] = {
    feed: ["ANSWER_LIMIT_BYTES"],
    copying: ["ANSWER_SECONDS", "SILENCE_SECONDS", "ANSWER_LIMIT_BYTES"],
    primary_client: ["TIMEOUT_SECONDS", "ANSWER_LIMIT_BYTES"],
    remote: [
        *("SILENCE_SECONDS", "EVIDENCE_SECONDS", "ROWS_SECONDS", "DIGESTS_SECONDS"),
        *("ANSWER_LIMIT_BYTES", "ROWS_LIMIT_BYTES"),
    ],
    peers: ["ANSWER_SECONDS", "ANSWER_LIMIT_BYTES"],
    drills: ["LOOK_SECONDS", "TELL_SECONDS", "ANSWER_LIMIT_BYTES"],
    canary_writers: ["ANSWER_LIMIT_BYTES"],
    canary: ["READ_SECONDS"],
    cli: ["SILENCE_SECONDS", "GET_SECONDS", "ANSWER_LIMIT_BYTES"],
    cluster: ["ANSWER_SECONDS", "ANSWER_LIMIT_BYTES"],
}


def narrow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let everybody have bounds that a test can pass."""
    monkeypatch.setattr(users, "SECONDS", seconds)
    for module, names in BOUNDS.items():
        for name in names:
            monkeypatch.setattr(module, name, seconds if name.endswith("SECONDS") else LIMIT_BYTES)


def upstream(url: str) -> Upstream:
    return Upstream(url, "tokyo", TOKEN, idle_seconds=SECONDS, connect_seconds=SECONDS)


def endpoint(url: str) -> Endpoint:
    return Endpoint("paris", url, TOKEN, token_key="[cluster] token")


# -- the feed


async def feed_position(url: str) -> None:
    async with FeedClient(upstream(url)) as client:
        await client.position("main", 5)


async def feed_ends(url: str) -> None:
    async with FeedClient(upstream(url)) as client:
        await client.ends("main")


async def feed_stream(url: str) -> None:
    async with FeedClient(upstream(url)) as client, client.stream("main", genesis("main")) as frames:
        async for _ in frames.batches():
            pass
    raise Unavailable("feed_closed", "it ended", place=url, cure="it is opened again")


# -- a copy, and an orphan that is sent again


async def copy_plan(url: str) -> None:
    async with copying.CopyClient(upstream(url)) as client:
        await client.plan()


async def copy_begin(url: str) -> None:
    async with copying.CopyClient(upstream(url)) as client:
        await client.begin(100)


async def copy_chunk(url: str) -> None:
    async with copying.CopyClient(upstream(url)) as client:
        await client.chunk("copy", 1)


async def rejoin_send(url: str) -> None:
    async with primary_client.PrimaryClient(upstream(url)) as primary:
        await primary.send(ORPHAN, "ann")


# -- a comparison


async def verify_pause(url: str) -> None:
    async with remote.remote_side(endpoint(url)) as side:
        await side.pause()


async def verify_fix(url: str) -> None:
    async with remote.remote_side(endpoint(url)) as side:
        await side.fix(None)


async def verify_digests(url: str) -> None:
    async with remote.remote_side(endpoint(url)) as side:
        await side.digests("wallets", 16)


async def verify_rows(url: str) -> None:
    async with remote.remote_side(endpoint(url)) as side:
        await side.rows("wallets", 16, [1])


async def verify_evidence(url: str) -> None:
    async with remote.remote_side(endpoint(url)) as side:
        await side.evidence("wallets", [KeyQuestion(b"1", (None,))])


# -- failover


async def peer_order(url: str) -> None:
    others = peers.Peers({"paris": url}, TOKEN, None, trio.current_time, lambda: False, lambda: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(others.run)
        try:
            await others.tell("paris", Order("take", 0.0), 5.0)
        finally:
            nursery.cancel_scope.cancel()


# -- drills


async def drill_ask(url: str) -> None:
    async with drills.DeploymentRegions([endpoint(url)], trio.current_time) as regions:
        found = await regions._ask("paris", "GET", "/v1/status", None, SECONDS)
        assert found is None  # 404


async def drill_look(url: str) -> None:
    async with drills.DeploymentRegions([endpoint(url)], trio.current_time) as regions:
        assert (await regions.look("paris")).state == AWAY


async def drill_write(url: str) -> None:
    plan = CanaryPlan.model_validate({"attempt": f"{SECONDS:g}s"})
    async with drills.DeploymentRegions([endpoint(url)], trio.current_time) as regions:
        with contextlib.suppress(Rejected):
            assert not isinstance(
                await canary_writers.EmbeddedCanaryWriter("drill", plan, regions).write("paris", 1),
                canary_writers.WriteAcknowledged,
            )


async def drill_read(url: str) -> None:
    plan = CanaryPlan.model_validate({})
    async with drills.DeploymentRegions([endpoint(url)], trio.current_time) as regions:
        writer = canary_writers.EmbeddedCanaryWriter("drill", plan, regions)
        await canary.Canaries("drill", plan, regions, writer, "paris", trio.current_time).holds("paris", 1)


# -- the command line and the checks before a start


async def cli_ask(url: str) -> None:
    await trio.to_thread.run_sync(cli.get, endpoint(url), "/v1/status")


async def cli_tell(url: str) -> None:
    await trio.to_thread.run_sync(cli.post, endpoint(url), "/v1/gaps", {"a": 1}, SECONDS)


async def preflight_following(url: str) -> None:
    findings = await check_feed(upstream(url), genesis("main"))
    assert [finding.level for finding in findings] == ["fail"]
    assert all(finding.cure for finding in findings)


async def preflight_cluster(url: str) -> None:
    (finding,) = await cluster.look_at(endpoint(url), _config(url))
    assert finding.level in ("fail", "warn")
    assert finding.cure


def _config(url: str) -> Config:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.toml"
        path.write_text(
            '[region]\nname = "tokyo"\nrole = "replica"\ndata_dir = "data"\n[replica]\nkind = "sqlite"\npath = "l.db"\n'
            f'[follow]\nprimary = "{url}"\n'
        )
        return load(path)


RAISING: list[User] = [
    *(feed_position, feed_ends, feed_stream, copy_plan, copy_begin, copy_chunk, rejoin_send),
    *(verify_pause, verify_fix, verify_digests, verify_rows, verify_evidence),
    *(peer_order, drill_ask, cli_ask, cli_tell),
]
"""Those that raise a ReplicatorError."""

TELLING: list[User] = [drill_look, drill_write, drill_read, preflight_following, preflight_cluster]
"""Those that tell by what they return that a region is away, or not what it should be."""

OF_JSON: list[User] = [
    *(feed_position, feed_ends, copy_plan, rejoin_send, verify_pause, verify_fix, peer_order, drill_ask),
    *(cli_ask, cli_tell, drill_look, preflight_cluster),
]
