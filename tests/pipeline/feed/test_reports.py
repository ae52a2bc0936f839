"""What a region reports, what counts as a report, and what happens when what it needs was pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.lowlevel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.errors import Halted, ReplicatorError
from replicator.pipeline.acknowledge import Acknowledgement, AcknowledgeRule
from replicator.pipeline.feed.publish import Publisher
from replicator.pipeline.feed.regions import routes as region_routes
from replicator.pipeline.feed.reports import REPORT_SECONDS
from replicator.storage.journal.keeper import JournalKeeper
from replicator.storage.journal.pruning import remove_pages
from replicator.storage.journal.retention import RetentionPolicy
from replicator.supervise import first_cause
from replicator.transport.server import Listen, application, serve
from tests.pipeline.feed.conftest import STRAND, Primary, Region, drafts
from tests.pipeline.feed.operated import Lossy
from tests.servers import free_port


@pytest.fixture
def primary(tmp_path: Path) -> Primary:
    made = Primary(tmp_path / "primary.db")
    for number in range(1, 31):
        made.write(drafts(number, number))
    return made


def prune(primary: Primary, until: int) -> None:
    while remove_pages(primary.journal, STRAND, until).sequence < until:
        pass


def known(primary: Primary) -> dict[str, int]:
    return {region.name: region.sequence for region in primary.regions.all()}


async def ask(primary: Primary, method: str, path: str, region: str = "eu", **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=primary.url, trust_env=False) as client:
        return await client.request(method, path, headers={"Feed-Region": region}, **more)


async def report(primary: Primary, position: object, region: str = "eu") -> httpx.Response:
    return await ask(primary, "POST", f"/feed/v1/{STRAND}/received", region, json={"position": str(position)})


async def test_a_region_reports_what_is_durable_in_its_journal(
    primary: Primary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.pipeline.feed.reports.REPORT_SECONDS", 0.02)
    region = Region(tmp_path / "eu", primary)
    with trio.fail_after(20):
        async with primary.serving(), trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await region.tail.beyond(29)
            while known(primary) != {"eu": 30}:  # noqa: ASYNC110  # it looks from outside
                await trio.sleep(0.01)  # the report comes by itself
            nursery.cancel_scope.cancel()
    assert region.journal.head(STRAND).sequence == 30


async def test_what_was_sent_is_no_report_and_a_range_is_none_either(primary: Primary) -> None:
    at_10 = primary.journal.position_at(STRAND, 10)
    assert at_10 is not None
    async with primary.serving():
        for query in ({"after": 0, "until": 20}, {"after": 10, "hash": at_10.hash.hex(), "until": 20}):
            assert (await ask(primary, "GET", f"/feed/v1/{STRAND}", params=query)).status_code == 200
        assert known(primary) == {}
        async with (
            httpx.AsyncClient(base_url=primary.url, trust_env=False) as client,
            client.stream(
                "GET",
                f"/feed/v1/{STRAND}",
                params={"after": 10, "hash": at_10.hash.hex()},
                headers={"Feed-Region": "eu"},
            ) as response,
        ):
            assert response.status_code == 200
            assert known(primary) == {"eu": 10}, "the position that a stream is opened with is a report"


async def test_a_report_is_of_this_chain_or_refused(primary: Primary) -> None:
    at_20 = primary.journal.position_at(STRAND, 20)
    assert at_20 is not None
    prune(primary, 10)
    forged = at_20._replace(hash=b"\x07" * 32)
    beyond = at_20._replace(sequence=99)
    before = at_20._replace(sequence=5)
    async with primary.serving():
        for wrong, status in ((forged, 409), (beyond, 409), (before, 410), ("nonsense", 400)):
            assert (await report(primary, wrong)).status_code == status
        large = await ask(primary, "POST", f"/feed/v1/{STRAND}/received", content=b"x" * 10_000)
        assert large.status_code == 413
        assert known(primary) == {}
        answer = await report(primary, at_20)
        assert answer.json()["base"] == str(primary.journal.base(STRAND))
    assert known(primary) == {"eu": 20}


async def until_known(primary: Primary, expected: dict[str, int]) -> None:
    while known(primary) != expected:  # noqa: ASYNC110  # it looks from outside
        await trio.sleep(0.002)


async def test_reports_are_prompt_where_somebody_waits_for_them(primary: Primary, tmp_path: Path) -> None:
    """Each block is reported long before the ordinary report's time, one report at a time."""
    primary.publisher.wants_reports = lambda: True
    reports: list[int] = []
    primary.publisher.on_report = lambda strand, region, sequence: reports.append(sequence)
    region = Region(tmp_path / "eu", primary)
    with trio.fail_after(20):
        async with primary.serving(), trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await until_known(primary, {"eu": 30})
            began = trio.current_time()
            for number in range(31, 51):
                primary.write(drafts(number, number))
                await until_known(primary, {"eu": number})
            assert trio.current_time() - began < REPORT_SECONDS, "twenty round trips, before one ordinary report"
            nursery.cancel_scope.cancel()
    assert reports == sorted(reports)
    assert [report for report in reports if report > 30] == list(range(31, 51)), "one for each piece of news"


async def test_many_writes_share_a_report(primary: Primary, tmp_path: Path) -> None:
    primary.publisher.wants_reports = lambda: True
    reports: list[int] = []
    primary.publisher.on_report = lambda strand, region, sequence: reports.append(sequence)
    region = Region(tmp_path / "eu", primary)
    with trio.fail_after(20):
        async with primary.serving(), trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await until_known(primary, {"eu": 30})
            for number in range(31, 331):
                primary.write(drafts(number, number))
                await trio.lowlevel.checkpoint()
            await until_known(primary, {"eu": 330})
            nursery.cancel_scope.cancel()
    assert len(reports) < 150


async def test_a_wish_reaches_a_follower_whose_stream_is_open_already(
    primary: Primary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the answer to its next report; and it is taken back in the same way."""
    monkeypatch.setattr("replicator.pipeline.feed.reports.REPORT_SECONDS", 0.3)
    wanted = False
    primary.publisher.wants_reports = lambda: wanted
    region = Region(tmp_path / "eu", primary)

    async def seconds(number: int) -> float:
        """How long a block takes to be reported."""
        began = trio.current_time()
        primary.write(drafts(number, number))
        await until_known(primary, {"eu": number})
        return trio.current_time() - began

    with trio.fail_after(20):
        async with primary.serving(), trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await until_known(primary, {"eu": 30})
            wanted = True
            await seconds(31)
            assert sum([await seconds(number) for number in range(32, 37)]) < 1.0
            wanted = False
            await seconds(37)
            assert sum([await seconds(number) for number in range(38, 43)]) > 1.2
            nursery.cancel_scope.cancel()


async def test_two_regions_that_both_must_have_it(primary: Primary, tmp_path: Path) -> None:
    """K = 2, over HTTP: the second region comes later."""
    acknowledgement = Acknowledgement(AcknowledgeRule(2, regions=frozenset({"eu", "us"})), 30)
    primary.publisher.wants_reports = lambda: True
    primary.publisher.on_report = lambda strand, region, sequence: acknowledgement.reported(region, sequence)
    eu, us = (Region(tmp_path / name, primary, name=name) for name in ("eu", "us"))
    with trio.fail_after(20):
        async with primary.serving(), trio.open_nursery() as nursery:
            nursery.start_soon(eu.follower.run_once)
            primary.write(drafts(31, 31))
            acknowledgement.stored(31)
            await eu.tail.beyond(30)
            with trio.move_on_after(0.2) as waiting:
                await acknowledgement.wait(31)
            assert waiting.cancelled_caught
            nursery.start_soon(us.follower.run_once)
            assert await acknowledgement.wait(31) == 2
            assert us.journal.head(STRAND).sequence == 31
            nursery.cancel_scope.cancel()


async def test_a_stranger_is_no_region(primary: Primary) -> None:
    reports: list[str] = []
    primary.publisher.on_report = lambda strand, region, sequence: reports.append(region)
    at_20 = primary.journal.position_at(STRAND, 20)
    assert at_20 is not None
    async with primary.serving():
        for name in ("", "a b", "eu"):
            assert (await report(primary, at_20, name)).status_code == 200
        forged = at_20._replace(hash=b"\x07" * 32)
        assert (await report(primary, forged)).status_code == 409
    assert reports == ["eu"]


class Plain(Publisher):
    """A feed of the first days: it takes no reports. ``asked``: it has been sent as many as ``enough``."""

    enough = 1

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked = trio.Event()
        self._reports = 0

    def routes(self) -> list[Route]:
        return [*super().routes()[:-1], Route("/feed/v1/{strand}/received", self._answer, methods=["POST"])]

    async def _answer(self, request: Request) -> Response:
        self._reports += 1
        if self._reports == self.enough:
            self.asked.set()
        return self.refusal()

    def refusal(self) -> Response:
        return JSONResponse({"reason": "not_found", "error": "there is no such thing"}, 404)


async def asked(primary: Primary) -> None:
    assert isinstance(primary.publisher, Plain)
    await primary.publisher.asked.wait()


async def test_an_upstream_that_takes_no_reports_is_followed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.pipeline.feed.reports.REPORT_SECONDS", 0.01)
    primary = Primary(tmp_path / "primary.db", Plain)
    primary.write(drafts(1, 5))
    region = Region(tmp_path / "eu", primary)
    with trio.fail_after(20):
        async with primary.serving(), trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await region.tail.beyond(4)
            await asked(primary)
            primary.write(drafts(6, 9))
            await region.tail.beyond(8)
            nursery.cancel_scope.cancel()
    assert region.recorder.halts == []
    assert known(primary) == {"eu": 0}, "counted by the position that it connected with"


class Babbling(Plain):
    """Answers a report with what is no JSON."""

    enough = 3

    def refusal(self) -> Response:
        return Response(b"\x93\xff" * 100)


async def test_a_strange_answer_to_a_report_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.pipeline.feed.reports.REPORT_SECONDS", 0.01)
    primary = Primary(tmp_path / "primary.db", Babbling)
    primary.write(drafts(1, 5))
    region = Region(tmp_path / "eu", primary)
    with trio.fail_after(20):
        async with primary.serving(), trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await region.tail.beyond(4)
            await asked(primary)
            primary.write(drafts(6, 9))
            await region.tail.beyond(8)
            nursery.cancel_scope.cancel()
    assert region.recorder.halts == []


async def test_a_start_time_before_the_journals_beginning_is_pruned(primary: Primary) -> None:
    prune(primary, 10)
    async with primary.serving():
        path = f"/feed/v1/{STRAND}"
        refused = await ask(primary, "GET", path, params={"from": "1970-01-01T00:00:00.000050Z", "until": 30})
        assert (refused.status_code, refused.json()["reason"]) == (410, "pruned")
        told = await ask(primary, "GET", path, params={"from": "1970-01-01T00:00:00.000101Z", "until": 30})
        assert told.status_code == 200


async def test_a_stream_breaks_off_before_what_was_pruned(primary: Primary, tmp_path: Path) -> None:
    """Blocks come and go while a stream waits: it must not pass over them."""
    region = Region(tmp_path / "eu", primary)
    with trio.fail_after(20):
        async with primary.serving(), trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await region.tail.beyond(29)
            for number in range(31, 61):
                blocks = primary.journal.append(STRAND, drafts(number, number), 1)
            prune(primary, 50)
            primary.tail.moved(blocks[-1].position, 0)
            await region.recorder.halted.wait()
            nursery.cancel_scope.cancel()
    (halt,) = region.recorder.halts
    assert halt.reason == "pruned"
    assert "replicator bootstrap CONFIG" in halt.cure
    assert region.journal.head(STRAND).sequence == 30, "nothing was passed over"


async def test_a_gap_whose_blocks_were_pruned_halts(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db", Lossy)
    assert isinstance(primary.publisher, Lossy)
    primary.publisher.gone = {5}
    for number in range(1, 31):
        primary.write(drafts(number, number))
    region = Region(tmp_path / "eu", primary)
    with trio.fail_after(20), Caught() as caught:
        async with primary.serving(), trio.open_nursery() as nursery:

            async def prune_behind_it() -> None:
                while not region.follower.status().gaps:  # noqa: ASYNC110  # it looks from outside
                    await trio.sleep(0.01)
                prune(primary, 20)

            nursery.start_soon(prune_behind_it)
            await region.follower.run_once()
    assert caught.cause is not None
    assert caught.cause.reason == "pruned"


class Caught:
    """Catches what a stage raises, however it is grouped."""

    cause: ReplicatorError | None = None

    def __enter__(self) -> Caught:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, BaseExceptionGroup):
            self.cause = first_cause(error)
        elif isinstance(error, Halted):
            self.cause = error
        return self.cause is not None


async def test_regions_over_http(primary: Primary) -> None:
    """Listed with what is kept for them; forgotten by an operator, with the reason."""
    primary.regions.report("lima", 3, 1)
    keeper = JournalKeeper(primary.journal, STRAND, RetentionPolicy(keep_bytes=0), primary.regions)
    while keeper.step():
        pass
    parts = type("Parts", (), {"publisher": primary.publisher, "keeper": keeper})()
    port = free_port()
    app = application(region_routes(primary.regions, parts), "secret")
    url = f"http://127.0.0.1:{port}"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, app, Listen("127.0.0.1", port), trio.sleep_forever)
        headers = {"Authorization": "Bearer secret"}
        async with httpx.AsyncClient(base_url=url, trust_env=False, headers=headers) as client:
            listed = (await client.get("/v1/regions")).json()
            assert [(region["region"], region["state"], region["sequence"]) for region in listed["regions"]] == [
                ("lima", "away", 3)
            ]
            assert (listed["begins_behind"], listed["held_by"]["who"]) == (3, "lima")
            word = {"region": "lima", "who": "ann", "why": "closed"}
            assert (await client.post("/v1/regions/forget", content=json.dumps(word))).status_code == 415
            assert (await client.post("/v1/regions/forget", json={**word, "region": "rome"})).status_code == 404
            assert (await client.post("/v1/regions/forget", json=word)).json()["forgotten"] == "lima"
            while keeper.step():
                pass
            listed = (await client.get("/v1/regions")).json()
            assert (listed["regions"][0]["state"], listed["regions"][0]["forgotten"]) == ("forgotten", "ann: closed")
            assert (listed["begins_behind"], listed["held_by"]) == (29, None)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as stranger:
            assert (await stranger.get("/v1/regions")).status_code == 401
        nursery.cancel_scope.cancel()
