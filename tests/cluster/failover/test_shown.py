"""What a cluster that runs says of itself over HTTP, and the verbs of failover as people use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from click.testing import CliRunner, Result

from replicator.ops.cli import main
from tests.cluster.failover.regions import Region, cluster, converged, running, until, write

THREE = ("paris", "tokyo", "lima")


async def verb(*arguments: str) -> Result:
    """Run a verb in a thread, beside the regions."""
    runner = CliRunner()
    return await trio.to_thread.run_sync(lambda: runner.invoke(main, arguments, env={"COLUMNS": "160"}))


async def get(region: Region, path: str) -> tuple[int, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(region.url + path)
        return answer.status_code, answer.json()


async def role_codes(region: Region) -> dict[str, int]:
    return {path: (await get(region, f"/{path}"))[0] for path in ("primary", "replica", "readiness", "health")}


@pytest.mark.slow
async def test_who_leads_and_who_could_is_told_by_every_region(tmp_path: Path) -> None:
    regions = cluster(tmp_path, THREE)
    paris, tokyo, lima = regions.values()
    async with running(regions):
        await until(lambda: paris.leads and tokyo.state() == lima.state() == "following", "paris leads")
        await write(paris.url, "w1")
        await converged(regions)
        assert await role_codes(paris) == {"primary": 200, "replica": 503, "readiness": 200, "health": 200}
        assert await role_codes(tokyo) == {"primary": 503, "replica": 200, "readiness": 200, "health": 200}

        paused = await verb("pause", str(tmp_path / "lima.toml"), "--reason", "its disk is changed")
        assert paused.output == "paused\n"
        await until(lambda: lima.state() == "paused", "lima is paused")
        async with httpx.AsyncClient(trust_env=False) as client:
            with trio.fail_after(10):
                while True:
                    status = (await client.get(f"{tokyo.url}/v1/status")).json()
                    told = {one["region"]: one for one in status["failover"]["regions"]}
                    if told["lima"]["state"] == "paused" and told["paris"]["state"] == "primary":
                        break
                    await trio.sleep(0.05)  # until tokyo has heard it
        assert {name: one["summary"] for name, one in told.items()} == {
            "paris": "leads",
            "tokyo": "yes",
            "lima": "paused by an operator: replicator resume CONFIG",
        }
        assert status["role"] == "replica"
        assert status["failover"]["lease"]["holder"] == "paris"
        assert (await verb("status", str(tmp_path / "tokyo.toml"))).exit_code == 0

        moved = await verb("switchover", str(tmp_path / "lima.toml"), "--to", "tokyo", "--reason", "a test", "--json")
        assert json.loads(moved.output)["moved"] is True, moved.output
        await until(lambda: tokyo.leads and paris.state() == "following", "tokyo leads")
        assert (await role_codes(tokyo))["primary"] == 200
        assert (await role_codes(paris))["primary"] == 503
        _, history = await get(tokyo, "/history")
        promoted = [event for event in history if event["kind"] == "promoted"]
        assert [(event["role"], event["epoch"]) for event in promoted] == [("primary", 2)]
        assert any(event["kind"] == "stand" and "(a test, by " in event["note"] for event in history)
        printed = await verb("history", str(tmp_path / "lima.toml"))
        assert "now paused: its disk is changed, by " in printed.output


async def test_orphans_are_counted_shown_and_settled(tmp_path: Path) -> None:
    regions = cluster(tmp_path, failover="max_lost_blocks = 5")
    paris, tokyo = regions.values()
    async with running(regions) as nursery:
        await until(lambda: paris.leads and tokyo.state() == "following", "paris leads")
        await write(paris.url, "both have it")
        await converged(regions)
        await tokyo.stop()
        await write(paris.url, "only paris has it")
        await paris.stop()
        await tokyo.start(nursery)
        await until(lambda: tokyo.leads, "tokyo leads")
        await write(tokyo.url, "since")
        await paris.start(nursery)
        await converged(regions)
        assert paris.controller is not None
        assert paris.controller.member.orphans.unhandled == 1
        status = (await get(paris, "/v1/status"))[1]
        assert status["failover"]["orphaned_transactions"] == 1
        listed = json.loads((await verb("orphans", str(tmp_path / "paris.toml"), "--json")).output)["orphans"]
        assert [one["unhandled"] for one in listed] == [1]
        seal = listed[0]["orphans"]
        again = await verb("orphans", "reapply", str(tmp_path / "paris.toml"), seal, "--apply")
        assert again.exit_code == 0, again.output
        await converged(regions)
        assert paris.controller.member.orphans.unhandled == 0
        code, _ = await get(tokyo, "/v1/tables/wallets/documents/only%20paris%20has%20it")
        assert code == 200
