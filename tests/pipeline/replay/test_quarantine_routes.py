"""The quarantine over HTTP: what it tells, what it does, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from replicator.pipeline.replay.quarantine_routes import routes
from replicator.transport.server import application
from tests.pipeline.replay.operated import Operated


@pytest.fixture
def operated(tmp_path: Path) -> Operated:
    return Operated(tmp_path)


async def test_what_is_open_is_listed_with_keys_and_reasons(operated: Operated) -> None:
    async with operated.running():
        answer = await operated.get("")
        assert (answer["strand"], answer["open"], answer["held_keys"]) == ("main", 3, 2)
        shown = [
            (one["sequence"], one["ordinal"], one["table"], one["key"], one["reason"]) for one in answer["statements"]
        ]
        assert shown == [
            (4, 0, "wallets", ["1"], "replica_refused_row"),
            (4, 1, "pairs", ["de", "17"], "replica_refused_row"),
            (5, 0, "wallets", ["1"], "held"),
        ]
        assert (await operated.get("/closed"))["statements"] == []
        assert (await operated.get("/keys"))["keys"] == {"wallets": [["1"]], "pairs": [["de", "17"]]}


async def test_one_statement_is_shown_with_its_block_and_its_row(operated: Operated) -> None:
    async with operated.running():
        answer = await operated.get("/statements/4/1")
        assert answer["row"] == {"a": "de", "b": "17", "balance": "-5"}
        block = operated.strand.journal.block("main", 4)
        assert block is not None
        assert answer["block"] == {
            "sequence": 4,
            "epoch": 1,
            "txid": "tx4",
            "committed_at": 4000,
            "statements": 2,
            "hash": block.hash.hex(),
        }
        assert (await operated.get("/statements/5/0"))["row"] is None, "a delete has none"
        missing = await operated.request("GET", "/statements/4/7")
        assert (missing.status_code, missing.json()["reason"]) == (404, "not_set_aside")
        beyond = await operated.request("GET", f"/statements/{2**63}/0")
        assert (beyond.status_code, beyond.json()["reason"]) == (422, "bad_request")


async def test_a_replay_is_a_dry_run_unless_it_is_to_apply(operated: Operated) -> None:
    async with operated.running():
        operated.strand.allow()
        answer = (await operated.post("/replay", who="ann", table="wallets")).json()
        assert answer["applied"] is False
        (group,) = answer["groups"]
        assert (group["outcome"], group["keys"], group["places"]) == ("replayed", [["1"]], [[4, 0], [5, 0]])
        assert (await operated.get(""))["open"] == 3
        answer = (await operated.post("/replay", who="ann", apply=True)).json()
        assert [group["outcome"] for group in answer["groups"]] == ["replayed", "refused"]
        assert answer["groups"][1]["reason"] == "replica_refused_row"
        assert operated.strand.wallets() == {"2": "12", "3": "10"}
        assert (await operated.get(""))["open"] == 1
        closed = (await operated.get("/closed"))["statements"]
        assert {(one["outcome"], one["closed_by"]) for one in closed} == {("replayed", "ann")}


async def test_a_statement_is_dropped_once(operated: Operated) -> None:
    async with operated.running():
        answer = await operated.post("/drop", sequence=4, ordinal=1, who="bob", why="wrong everywhere")
        assert answer.json() == {"strand": "main", "dropped": {"sequence": 4, "ordinal": 1}}
        again = await operated.post("/drop", sequence=4, ordinal=1, who="bob", why="wrong everywhere")
        assert (again.status_code, again.json()["reason"]) == (409, "closed")
        (closed,) = (await operated.get("/closed"))["statements"]
        assert (closed["outcome"], closed["closed_by"], closed["closed_why"]) == ("dropped", "bob", "wrong everywhere")
        assert operated.strand.replayer.quarantine.summary.statements == 2


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/replay", {}, 422),
        ("/replay", {"who": "ann", "keys": "1"}, 422),
        ("/replay", {"who": "ann", "keys": ["1"]}, 422),
        ("/replay", {"who": "ann", "keys": [[1]]}, 422),
        ("/replay", {"who": "ann", "keys": [[]]}, 422),
        ("/replay", {"who": "ann", "apply": "yes"}, 422),
        ("/replay", {"who": " "}, 422),
        ("/replay", {"who": "ann", "table": "nothing"}, 404),
        ("/drop", {"sequence": 4, "ordinal": 1, "who": "ann"}, 422),
        ("/drop", {"sequence": 0, "ordinal": 1, "who": "ann", "why": "x"}, 422),
        ("/drop", {"sequence": 4, "ordinal": 2**70, "who": "ann", "why": "x"}, 422),
        ("/drop", {"sequence": 4, "ordinal": 9, "who": "ann", "why": "x"}, 404),
    ],
)
async def test_what_is_not_a_request_is_refused_and_changes_nothing(
    operated: Operated, path: str, fields: dict[str, Any], status: int
) -> None:
    async with operated.running():
        answer = await operated.post(path, **fields)
        assert answer.status_code == status, answer.text
        assert answer.json()["message"]
        assert (await operated.get(""))["open"] == 3


async def test_it_asks_for_the_token_and_for_json(operated: Operated) -> None:
    async with operated.running():
        for method, path in (("GET", ""), ("GET", "/closed"), ("GET", "/statements/4/0"), ("POST", "/replay")):
            assert (await operated.request(method, path, token="wrong")).status_code == 401
        plain = await operated.request("POST", "/replay", content=b'{"who": "ann"}')
        assert plain.status_code == 415


async def test_without_a_desk_each_route_says_that_nothing_is_replayed_here() -> None:
    transport = httpx.ASGITransport(application(routes(None), None))
    async with httpx.AsyncClient(transport=transport, base_url="http://primary") as client:
        for answer in (await client.get("/v1/quarantine"), await client.post("/v1/quarantine/drop")):
            assert (answer.status_code, answer.json()["reason"]) == (404, "not_a_replica")
