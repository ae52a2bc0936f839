"""What an order is accepted or refused for is how the region that it names is at that moment."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from replicator.cluster.failover import peers
from tests.cluster.failover.regions import Region, cluster, order, running, until


async def _switchover(region: Region) -> tuple[int, str]:
    fields = {"verb": "switchover", "target": "tokyo", "seconds": 20.0}
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{region.url}/v1/failover/orders", json=fields)
    return answer.status_code, answer.json().get("reason", "")


async def test_a_switchover_is_judged_by_how_its_target_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by what was heard of it last, up to half a second ago."""
    regions = cluster(tmp_path)
    paris, tokyo = regions["paris"], regions["tokyo"]
    async with running(regions):
        await until(lambda: paris.leads and tokyo.state() == "following", "paris leads")
        monkeypatch.setattr(peers, "CALM_SECONDS", 3600.0)  # nobody hears anything by himself any more
        assert paris.controller is not None
        heard = paris.controller.member.peers.heard
        before = heard["tokyo"]
        await until(lambda: heard["tokyo"] != before, "the last look")
        await order(tokyo.url, verb="pause")
        await until(lambda: tokyo.state() == "paused", "tokyo is paused")
        assert await _switchover(paris) == (409, "target_not_ready")
        await order(tokyo.url, verb="resume")
        await until(lambda: tokyo.state() == "following", "tokyo follows")
        assert await _switchover(paris) == (202, "")
        await until(lambda: tokyo.leads, "tokyo leads")
