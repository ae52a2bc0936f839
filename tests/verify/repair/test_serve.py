"""Repair and resync over HTTP: what is asked is checked, a primary refuses, the token is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from replicator.transport.server import Listen, application, serve
from replicator.verify.repair.serve import RepairParts, routes
from tests.servers import free_port
from tests.verify.repair.histories import before
from tests.verify.repair.world import World

TOKEN = "the-token"


@contextlib.asynccontextmanager
async def served(rewriting: RepairParts | None) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            app = application(routes(rewriting), TOKEN)
            await nursery.start(serve, app, Listen("127.0.0.1", port), trio.sleep_forever)
            headers = {"Authorization": f"Bearer {TOKEN}"}
            base = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client:
                yield client
            nursery.cancel_scope.cancel()


BAD: list[tuple[str, Any]] = [
    ("/v1/repair", {}),
    ("/v1/repair", []),
    ("/v1/repair", {"keys": [["notes"]], "keyless": [], "who": "me"}),
    ("/v1/repair", {"keys": [["notes", [1]]], "keyless": [], "who": "me"}),
    ("/v1/repair", {"keys": [["notes", ["1"]]] * 10_001, "keyless": [], "who": "me"}),
    ("/v1/repair", {"keys": [], "keyless": [7], "who": "me"}),
    ("/v1/repair", {"keys": [], "keyless": [], "who": "", "apply": True}),
    ("/v1/repair", {"keys": [], "keyless": [], "who": "me", "apply": 1}),
    ("/v1/resync", {"since": "now", "who": "me"}),
    ("/v1/resync", {"since": True, "who": "me"}),
    ("/v1/resync", {"since": 2**70, "who": "me"}),
    ("/v1/resync", {"since": 1, "who": "me", "tables": [1]}),
    ("/v1/resync", {"since": 1, "who": "me", "else": 1}),
    ("/v1/resync/cancel", {"now": True}),
]


async def test_what_is_asked_is_checked(world: World) -> None:
    before(world)
    async with world.running(), served(RepairParts(world.repairs, world.resync, lambda: None)) as client:
        for path, body in BAD:
            answer = await client.post(path, json=body)
            assert answer.status_code == 422, (path, body, answer.text)
            assert answer.json()["reason"] == "bad_request"
        as_form = {"content-type": "application/x-www-form-urlencoded"}
        assert (await client.post("/v1/repair", content=b"{}", headers=as_form)).status_code == 415
        assert (await client.post("/v1/resync", json={"since": 1, "who": "me", "tables": ["x"]})).status_code == 404
        assert (await client.post("/v1/resync/cancel", json={})).status_code == 409
        assert (await client.get("/v1/resync")).json() == {"job": None}
        assert (await client.get("/v1/resync", headers={"Authorization": ""})).status_code == 401
        begun = await client.post("/v1/resync", json={"since": 1, "who": "me"})
        assert begun.status_code == 200
        await world.finished()
        job = (await client.get("/v1/resync")).json()["job"]
        assert (job["state"], job["blocks"], job["who"], job["conflicts"]) == ("done", 5, "me", 0)


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/repair"), ("GET", "/v1/resync"), ("POST", "/v1/resync")])
async def test_a_primary_refuses(method: str, path: str) -> None:
    async with served(None) as client:
        answer = await client.request(method, path, json={"since": 1, "who": "me"})
        assert (answer.status_code, answer.json()["reason"]) == (409, "not_a_replica")
        assert answer.json()["cure"]
