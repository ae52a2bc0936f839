"""Writes that come during a switchover are held until it is known who takes them, and no longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import trio

from tests.cluster.failover.regions import Region, cluster, order, running, until, write


async def _post(region: Region, wallet: str) -> tuple[int, dict[str, Any]]:
    body = {"id": wallet, "statements": [{"table": "wallets", "op": "insert", "document": {"wallet_id": wallet}}]}
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        answer = await client.post(f"{region.url}/v1/transactions", json=body)
        return answer.status_code, answer.json()


async def test_nobody_is_told_to_come_again_during_a_switchover(tmp_path: Path) -> None:
    regions = cluster(tmp_path)
    paris, tokyo = regions.values()
    answers: dict[str, list[tuple[int, dict[str, Any]]]] = {"paris": [], "tokyo": []}
    async with running(regions):
        await until(lambda: paris.leads and tokyo.state() == "following", "paris leads")
        await write(paris.url, "before")
        moved = trio.Event()

        async def write_on(region: Region) -> None:
            number = 0
            while not moved.is_set():
                number += 1
                answers[region.name].append(await _post(region, f"{region.name}-{number}"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on, paris)
            nursery.start_soon(write_on, tokyo)
            await order(paris.url, verb="switchover", target="tokyo", seconds=8.0)
            await until(lambda: tokyo.leads and paris.state() == "following", "tokyo leads")
            moved.set()
        assert (await _post(tokyo, "after"))[0] == 200
    for told in answers.values():
        later = [body for status, body in told if status == 503]
        assert len(later) <= 1, later  # what was let in a moment before the fence closed is told to come again
        assert {status for status, _ in told} <= {200, 409, 503}
    assert answers["paris"][-1][0] == 409
    assert answers["paris"][-1][1]["primary"] == tokyo.url
