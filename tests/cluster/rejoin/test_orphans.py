"""Sealed orphans over HTTP and by the command line: shown as they stand by now, re-applied once, settled."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result
from httpx import AsyncClient

from replicator.cluster.rejoin.orphans import Orphans
from replicator.cluster.rejoin.serve import routes
from replicator.ledger.api import routes as api_routes
from replicator.ledger.ledger import Ledger as LiveLedger
from replicator.ledger.outcomes import Outcomes
from replicator.ledger.reads import Reads
from replicator.ops.cli import main
from replicator.pipeline.feed.client import Upstream
from replicator.storage.data_dir import DataDir
from replicator.transport.server import Listen, application, serve
from tests.cluster.rejoin.chains import digests, sealed
from tests.cluster.rejoin.embedded import Ledger, parted, topup
from tests.contracts.replica_kinds import STRAND
from tests.ledger.region import options
from tests.servers import free_port

Fields = dict[str, Any]


class Deployment:
    """The region that came back, and the primary, each with its HTTP surface."""

    def __init__(self, old: Ledger, new: Ledger, seal_id: str) -> None:
        self.old, self.new, self.id = old, new, seal_id
        self.port, self.primary_port = free_port(), free_port()
        self.primary_url: str | None = f"http://127.0.0.1:{self.primary_port}"
        self.orphans = Orphans(DataDir(old.directory), old.journal, old.history, STRAND, self._primary)

    def _primary(self) -> Upstream | None:
        return None if self.primary_url is None else Upstream(self.primary_url, "old", "secret")

    @contextlib.asynccontextmanager
    async def primary(self) -> AsyncIterator[None]:
        """The primary takes requests."""
        new = self.new
        ledger = LiveLedger(new.journal, STRAND, 2, options(new.directory, new.clock))
        reads = Reads(STRAND, new.kind.reader, new.journal, new.history, self._never, new.clock)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: ledger.run((), task_status=task_status))
            outcomes = Outcomes(STRAND, options(new.directory, new.clock).requests, new.journal, leads=True)
            app = application(api_routes(ledger, reads, outcomes), "secret")
            await nursery.start(serve, app, Listen("127.0.0.1", self.primary_port), trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()

    async def _never(self, position: object, seconds: float) -> bool:
        return False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[AsyncClient]:
        """The region that came back answers."""
        async with trio.open_nursery() as nursery:
            app = application(routes(self.orphans), "token")
            await nursery.start(serve, app, Listen("127.0.0.1", self.port), trio.sleep_forever)
            headers = {"Authorization": "Bearer token"}
            async with AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=20) as client:
                yield client
            nursery.cancel_scope.cancel()

    def follow(self) -> None:
        self.old.take(self.new)
        self.old.replay()

    async def reapply(self, client: AsyncClient, *sequences: int, apply: bool = True) -> list[Fields]:
        fields = {"who": "ann", "transactions": list(sequences), "apply": apply}
        answer = await client.post(f"/v1/orphans/{self.id}/reapply", json=fields)
        assert answer.status_code == 200, answer.text
        transactions: list[Fields] = answer.json()["transactions"]
        return transactions

    async def outcomes(self, client: AsyncClient, *sequences: int, apply: bool = True) -> list[str]:
        return [transaction["outcome"] for transaction in await self.reapply(client, *sequences, apply=apply)]

    async def verdicts(self, client: AsyncClient) -> dict[int, str]:
        transactions = (await client.get(f"/v1/orphans/{self.id}")).json()["transactions"]
        return {transaction["sequence"]: transaction["judged"]["verdict"] for transaction in transactions}


@pytest.fixture
async def deployed(tmp_path: Path) -> AsyncIterator[Deployment]:
    old, new, reference = parted(tmp_path)
    reference.close()
    fork, seal = await sealed(old, new)
    old.rewind().run(seal, fork)
    made = Deployment(old, new, seal.id)
    made.follow()
    yield made
    old.close()
    new.close()


CLEAN = [8, 9, 11, 12, 13, 14, 16]


async def test_what_is_sealed_is_listed_with_what_is_not_handled(deployed: Deployment) -> None:
    async with deployed.serving() as client:
        (listed,) = (await client.get("/v1/orphans")).json()["orphans"]
    assert (listed["orphans"], listed["blocks"], listed["unhandled"], listed["handled"]) == (deployed.id, 11, 10, 0)
    assert deployed.orphans.unhandled == 10


async def test_they_are_judged_by_now(deployed: Deployment) -> None:
    async with deployed.serving() as client:
        sealed_verdicts = await deployed.verdicts(client)
        assert [sequence for sequence, verdict in sealed_verdicts.items() if verdict == "clean"] == CLEAN
        deployed.new.submit(topup("b", 1))
        deployed.follow()
        verdicts = await deployed.verdicts(client)
        assert (verdicts.pop(8), verdicts.pop(9)) == ("conflict", "conflict")
        assert verdicts.items() <= sealed_verdicts.items()


async def test_pages(deployed: Deployment) -> None:
    async with deployed.serving() as client:
        path = f"/v1/orphans/{deployed.id}"
        first = (await client.get(path, params={"limit": 4, "verdict": "clean"})).json()
        assert ([transaction["sequence"] for transaction in first["transactions"]], first["next"]) == (
            CLEAN[:4],
            CLEAN[3],
        )
        rest = (await client.get(path, params={"after": first["next"], "verdict": "clean"})).json()
        assert ([transaction["sequence"] for transaction in rest["transactions"]], rest["next"]) == (CLEAN[4:], None)


async def test_a_dry_run_changes_nothing(deployed: Deployment) -> None:
    before = deployed.new.head
    async with deployed.primary(), deployed.serving() as client:
        transactions = await deployed.reapply(client, apply=False)
        assert [(transaction["sequence"], transaction["outcome"]) for transaction in transactions] == [
            (sequence, "to be sent") for sequence in CLEAN
        ]
        assert await deployed.outcomes(client, 7, apply=False) == ["left alone"]
    assert deployed.new.head == before
    assert not list((deployed.old.directory / "orphans").glob("*/handled.jsonl"))


async def test_re_applied_twice_they_are_carried_out_once(deployed: Deployment) -> None:
    new = deployed.new
    before = new.head.sequence
    async with deployed.primary(), deployed.serving() as client:
        for again in (False, True):
            transactions = await deployed.reapply(client, *CLEAN)
            assert {transaction["outcome"] for transaction in transactions} == {"left alone" if again else "re-applied"}
        assert await deployed.reapply(client) == []
        assert new.head.sequence == before + len(CLEAN)
        deployed.follow()
        verdicts = await deployed.verdicts(client)
    assert {verdicts[sequence] for sequence in CLEAN} == {"there"}
    assert new.document("b") == ({"wallet_id": "b", "user_id": "u-b", "balance": 50}, 3)
    assert new.document("d") is None
    assert new.document("e") == (
        {"wallet_id": "e", "user_id": "u-e", "balance": 100, "note": "<script>alert('x')</script> & more"},
        2,
    )
    assert digests(deployed.old.kind) == digests(new.kind)
    assert deployed.orphans.unhandled == 3


async def test_an_answer_that_was_lost(deployed: Deployment) -> None:
    """The transaction was carried out, and the process died before it noted that: it is found, not made again."""
    handled = deployed.old.directory / "orphans" / deployed.id / "handled.jsonl"
    async with deployed.primary(), deployed.serving() as client:
        await deployed.reapply(client, 8, 11)
        head = deployed.new.head
        lines = [line for line in handled.read_text().splitlines(keepends=True) if "sending" in line]
        handled.write_text("".join(lines) + '{"sequence": 9, "bec')  # the disk was full
        assert (await deployed.outcomes(client))[:2] == ["re-applied", "re-applied"]
        assert deployed.new.head.sequence == head.sequence + len(CLEAN) - 2
        handled.unlink()  # not even that it was being sent is known
        deployed.follow()
        verdicts = await deployed.verdicts(client)
        assert {verdicts[sequence] for sequence in CLEAN} == {"there"}


async def test_what_has_changed_a_moment_ago_is_refused_by_the_primary(deployed: Deployment) -> None:
    deployed.new.submit(topup("b", 1))  # this region has not heard of it yet
    async with deployed.primary(), deployed.serving() as client:
        first, second = await deployed.reapply(client, 8, 9)
    assert (first["outcome"], first["refusal"]["reason"]) == ("refused", "version_conflict")
    assert second["outcome"] == "left alone: needs 8 first", "its version is there by now, but of another history"
    assert deployed.new.document("b") == ({"wallet_id": "b", "user_id": "u-b", "balance": 101}, 2)


async def test_what_builds_on_an_orphan_goes_behind_it(deployed: Deployment) -> None:
    """The version that it expects is there, by another way: it would overwrite what others did."""
    async with deployed.primary(), deployed.serving() as client:
        assert await deployed.outcomes(client, 9) == ["left alone: needs 8 first"]
        assert await deployed.outcomes(client, 8) == ["re-applied"]
        assert await deployed.outcomes(client, 9) == ["re-applied"]
    assert deployed.new.document("b") == ({"wallet_id": "b", "user_id": "u-b", "balance": 50}, 3)


async def test_a_client_that_retries_its_orphan_yet(deployed: Deployment) -> None:
    """An orphan is sent under its client's own key: a late retry is refused instead of carried out once more."""
    async with deployed.primary(), deployed.serving() as client:
        await deployed.reapply(client, 8, 9)
        assert deployed.primary_url is not None
        headers = {"Authorization": "Bearer secret"}
        async with AsyncClient(base_url=deployed.primary_url, headers=headers) as late:
            answer = await late.post("/v1/transactions", content=topup("b", -20, id="second-b"))
    assert (answer.status_code, answer.json()["reason"]) == (422, "id_reused")


async def test_a_conflict_is_never_sent(deployed: Deployment) -> None:
    before = deployed.new.head
    async with deployed.primary(), deployed.serving() as client:
        transactions = await deployed.reapply(client, 7, 10, 17)
    assert {transaction["outcome"] for transaction in transactions} == {"left alone"}
    assert deployed.new.head == before


async def test_a_person_settles(deployed: Deployment) -> None:
    async with deployed.serving() as client:
        path = f"/v1/orphans/{deployed.id}/settle"
        fields = {"who": "ann", "why": "refunded by hand"}
        assert (await client.post(path, json={**fields, "transactions": [7]})).json()["settled"] == [7]
        assert deployed.orphans.unhandled == 9
        (first, *_) = (await client.get(f"/v1/orphans/{deployed.id}")).json()["transactions"]
        assert (first["settled"]["who"], first["settled"]["why"]) == ("ann", "refunded by hand")
        wrong = await client.post(path, json={**fields, "transactions": [15]})
        assert (wrong.status_code, wrong.json()["reason"]) == (404, "no_such_orphan")
        await client.post(path, json=fields)
        assert deployed.orphans.unhandled == 0


async def test_before_they_are_undone_they_are_shown_as_sealed_and_not_re_applied(tmp_path: Path) -> None:
    old, new, reference = parted(tmp_path)
    _, seal = await sealed(old, new)
    waiting = Deployment(old, new, seal.id)
    async with waiting.serving() as client:
        assert [
            sequence for sequence, verdict in (await waiting.verdicts(client)).items() if verdict == "clean"
        ] == CLEAN
        answer = await client.post(f"/v1/orphans/{seal.id}/reapply", json={"who": "ann", "apply": True})
        assert (answer.status_code, answer.json()["reason"]) == (409, "not_undone")
    for region in (old, new, reference):
        region.close()


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("GET", "/v1/orphans/nothing", None, 404),
        ("GET", "/v1/orphans/..%2F..%2Fetc", None, 404),
        ("GET", "/v1/orphans/{id}?limit=100000", None, 400),
        ("GET", "/v1/orphans/{id}?verdict=good", None, 400),
        ("POST", "/v1/orphans/{id}/reapply", {"transactions": []}, 422),
        ("POST", "/v1/orphans/{id}/reapply", {"who": "ann", "transactions": ["7"]}, 422),
        ("POST", "/v1/orphans/{id}/reapply", {"who": "ann", "transactions": [1]}, 404),
        ("POST", "/v1/orphans/{id}/reapply", {"who": "ann", "apply": True}, 503),
        ("POST", "/v1/orphans/take", {"orphan": "x", "who": "ann", "rows": []}, 409),
    ],
)
async def test_what_is_refused(
    deployed: Deployment, method: str, path: str, fields: Fields | None, status: int
) -> None:
    deployed.primary_url = None
    async with deployed.serving() as client:
        answer = await client.request(method, path.replace("{id}", deployed.id), json=fields)
        assert answer.status_code == status, answer.text
        assert {"reason", "message", "place", "cure"} <= answer.json().keys()
        client.headers.pop("Authorization")
        assert (await client.request(method, path.replace("{id}", deployed.id), json=fields)).status_code == 401


# -- the command line


async def replicator(*arguments: str) -> Result:
    runner = CliRunner(env={"REPLICATOR_TOKEN": "token"})
    return await trio.to_thread.run_sync(lambda: runner.invoke(main, ["orphans", *arguments]))


async def test_the_verbs(deployed: Deployment) -> None:
    url = f"http://127.0.0.1:{deployed.port}"
    async with deployed.primary(), deployed.serving():
        listed = await replicator("--url", url)
        assert listed.exit_code == 0, listed.output
        assert "7 can be re-applied, 3 conflict" in listed.output.replace("1 already there, ", "")
        shown = await replicator("show", deployed.id, "--url", url, "--verdict", "conflict")
        assert "a block since has changed the row (block" in shown.output
        as_json = json.loads((await replicator("show", deployed.id, "--url", url, "--json")).output)
        assert len(as_json["transactions"]) == 11
        before = deployed.new.head
        dry = await replicator("reapply", deployed.id, "--url", url)
        assert (dry.exit_code, "Nothing was changed" in dry.output, deployed.new.head) == (0, True, before)
        done = await replicator("reapply", deployed.id, "--url", url, "--tx", "8", "--apply", "--who", "ann")
        assert (done.exit_code, deployed.new.head.sequence) == (0, before.sequence + 1), done.output
        refused = await replicator("reapply", deployed.id, "--url", url, "--tx", "7", "--apply", "--who", "ann")
        assert (refused.exit_code, "left alone" in refused.output) == (1, True)
        settled = await replicator("settle", deployed.id, "--url", url, "--tx", "7", "--reason", "by hand")
        assert (settled.exit_code, settled.output) == (0, "settled: 7\n")
        assert (await replicator("show", "--url", url)).exit_code == 2
        assert (await replicator("reapply", deployed.id, "--url", url, "--apply", "--dry-run")).exit_code == 2
        assert (await replicator("show", "nothing", "--url", url)).exit_code == 1
