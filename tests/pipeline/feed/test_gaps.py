"""Gaps as people meet them, over real HTTP: noticed, explained, waived, and what a conflict needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from replicator.pipeline.feed.gaps import routes
from replicator.storage.journal.store import Journal
from replicator.transport.server import Listen, application, serve
from tests.pipeline.feed.conftest import STRAND, Primary, drafts
from tests.pipeline.feed.operated import Lossy, Operated, feed
from tests.servers import free_port


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    made = Primary(tmp_path / "primary.db", Lossy)
    yield made
    made.journal.close()


async def test_a_backlog_is_no_gap(tmp_path: Path, primary: Primary) -> None:
    primary.write(drafts(1, 5000))
    region = Operated(tmp_path / "eu", primary)
    async with primary.serving(), region.running():
        await region.tail.beyond(4999)
        for n in range(5001, 5050):
            primary.write(drafts(n, n))
            await region.tail.beyond(n - 1)
    assert region.follower.gap_counts.opened == 0


async def test_a_missing_last_block_is_noticed_and_fetched(tmp_path: Path, primary: Primary) -> None:
    region = Operated(tmp_path / "eu", primary)
    feed(primary).lost = {10}
    async with primary.serving(), region.running():
        primary.write(drafts(1, 10))
        await region.tail.beyond(9)  # nothing follows it: only heartbeats show that it is missing
    counts = region.follower.gap_counts
    assert (counts.opened, counts.filled) == (1, 1)
    assert counts.requests >= 1


async def test_a_gap_is_explained_and_then_certified(tmp_path: Path, primary: Primary) -> None:
    region = Operated(tmp_path / "eu", primary)
    feed(primary).gone = {5, 6}
    async with primary.serving(), region.running():
        primary.write(drafts(1, 10))
        gap = await region.expect_gap("requested")
        assert (gap["first"], gap["last"], gap["missing"]) == (5, 6, 2)
        assert gap["requests"] >= 1
        assert "is asked for" in gap["meaning"]
        assert f"{primary.url}/feed/v1/main?after=4&until=6" in gap["cure"]
        assert (await region.get(""))["held_entries"] == 4
        feed(primary).gone.clear()
        await region.tail.beyond(9)
        (certificate,) = (await region.get("/closed"))["certificates"]
    assert (certificate["first"], certificate["last"], certificate["how"]) == (5, 6, "filled")
    assert certificate["known_by"] == "links"
    assert certificate["requests"] >= 1


async def test_a_chained_strand_is_not_waived_by_the_way(tmp_path: Path, primary: Primary) -> None:
    region = Operated(tmp_path / "eu", primary)
    feed(primary).gone = {5}
    async with primary.serving(), region.running():
        primary.write(drafts(1, 10))
        await region.expect_gap("requested")
        refusal = await region.post("/waive", first=5, last=5, who="ann", why="lost")
        assert refusal.status_code == 409
        assert refusal.json()["reason"] == "chained"
        assert "--halt-strand" in refusal.json()["cure"]
        assert (await region.get("/closed"))["certificates"] == []
        feed(primary).gone.clear()
        await region.tail.beyond(9)
    assert region.recorder.halts == []


async def test_a_waiver_ends_a_chained_strand_before_the_gap_and_says_so(tmp_path: Path, primary: Primary) -> None:
    region = Operated(tmp_path / "eu", primary)
    feed(primary).gone = {5, 6}
    async with primary.serving(), region.running():
        primary.write(drafts(1, 10))
        await region.expect_gap("requested")
        answer = await region.post("/waive", first=5, last=6, who="ann", why="lost with the disk", halt_strand=True)
        assert answer.status_code == 200
        await region.recorder.halted.wait()
        (certificate,) = (await region.get("/closed"))["certificates"]
        assert (await region.get(""))["halted"]["reason"] == "waived"
        refusal = await region.post("/resume")  # that does not make the blocks come back
        assert (refusal.status_code, refusal.json()["reason"]) == (409, "waived")
        again = await region.post("/waive", first=5, last=6, who="ann", why="lost", halt_strand=True)
        assert (again.status_code, again.json()["reason"]) == (409, "nothing_missing")
    assert (certificate["how"], certificate["who"], certificate["why"]) == ("waived", "ann", "lost with the disk")
    halt = region.recorder.halts[-1]
    assert halt.reason == "waived"
    assert region.recorder.resumptions == 0
    assert "gap 5 to 6 was waived by ann: lost with the disk" in halt.message
    assert region.journal.head(STRAND).sequence == 4  # what comes before the gap is settled, nothing behind it


async def test_a_waiver_lasts_and_goes_with_the_spool(tmp_path: Path, primary: Primary) -> None:
    feed(primary).gone = {5}
    primary.write(drafts(1, 10))
    async with primary.serving():
        region = Operated(tmp_path / "eu", primary)
        async with region.running():
            await region.expect_gap("requested")
            await region.post("/waive", first=5, last=5, who="ann", why="lost", halt_strand=True)
            await region.recorder.halted.wait()
        region.journal.close()
        feed(primary).gone.clear()
        region = Operated(tmp_path / "eu", primary)
        async with region.running():
            await region.recorder.halted.wait()
        assert region.recorder.halts[0].reason == "waived"
        assert region.journal.head(STRAND).sequence == 4
        region.journal.close()
        for file in (tmp_path / "eu").glob("spool.db*"):
            file.unlink()
        region = Operated(tmp_path / "eu", primary)
        async with region.running():
            await region.tail.beyond(9)
    assert region.journal.head(STRAND) == primary.journal.head(STRAND)


async def test_a_late_block_stops_the_strand_and_is_kept(tmp_path: Path, primary: Primary) -> None:
    region = Operated(tmp_path / "eu", primary)
    feed(primary).gone = {5, 10}
    async with primary.serving(), region.running():
        primary.write(drafts(1, 10))
        await region.expect_gap("requested")
        await region.post("/waive", first=5, last=5, who="ann", why="lost", halt_strand=True)
        await region.recorder.halted.wait()
        feed(primary).gone.clear()  # 10 is asked for until it comes; 5 comes by another way, as from a second path
        (late,) = primary.journal.blocks(STRAND, 4, 1)[:1]
        await region.take(late)
        (shown,) = (await region.get("/late"))["late"]
        assert (shown["sequence"], shown["hash"]) == (5, late.hash.hex())
        assert region.recorder.halts[-1].reason == "late"
        assert (await region.post("/late", number=99)).json()["reason"] == "no_such_late"
        assert (await region.post("/late", number=shown["number"])).status_code == 200
        assert (await region.get("/late"))["late"] == []


async def test_a_conflict_shows_both_hashes_and_is_cured_by_discarding(tmp_path: Path, primary: Primary) -> None:
    true = primary.write(drafts(1, 10))
    other = Journal(tmp_path / "other.db")
    other.open()
    other.accept(STRAND, true[:4])
    (forged,) = other.append(STRAND, drafts(55, 55), 1)
    feed(primary).lost, feed(primary).forged = {4}, {5: forged}
    region = Operated(tmp_path / "eu", primary)
    async with primary.serving(), region.running():
        await region.recorder.halted.wait()
        (halt,) = region.recorder.halts
        assert halt.reason == "conflict"
        assert forged.hash.hex() in halt.message
        assert true[4].hash.hex() in halt.message
        assert "replicator gaps discard" in halt.cure
        assert (await region.get(""))["halted"] == halt.as_json()
        assert (await region.post("/discard", first=5, last=5)).status_code == 200
        await region.tail.beyond(9)
        assert (await region.get(""))["halted"] is None
    assert region.recorder.resumptions == 1
    assert region.journal.head(STRAND) == primary.journal.head(STRAND)
    other.close()


async def test_a_conflict_with_a_settled_block_is_resumed(tmp_path: Path, primary: Primary) -> None:
    true = primary.write(drafts(1, 10))
    other = Journal(tmp_path / "other.db")
    other.open()
    other.accept(STRAND, true[:9])
    (forged,) = other.append(STRAND, drafts(99, 99), 1)
    region = Operated(tmp_path / "eu", primary)
    async with primary.serving(), region.running():
        await region.tail.beyond(9)
        await region.take(forged)
        (halt,) = region.recorder.halts
        assert true[9].hash.hex() in halt.message
        assert forged.hash.hex() in halt.message
        refusal = await region.post("/discard", first=10, last=10)
        assert (refusal.status_code, refusal.json()["reason"]) == (409, "not_waiting")
        assert (await region.post("/resume")).status_code == 200
        primary.write(drafts(11, 11))
        await region.tail.beyond(10)
    assert region.journal.head(STRAND) == primary.journal.head(STRAND)
    other.close()


async def test_only_who_has_the_token_may_ask(tmp_path: Path, primary: Primary) -> None:
    region = Operated(tmp_path / "eu", primary)
    async with primary.serving(), region.running():
        for method, path in (("GET", ""), ("GET", "/closed"), ("POST", "/waive"), ("POST", "/resume")):
            assert (await region.request(method, path, token="guess")).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"first": 1, "last": 1, "who": "a", "why": " ", "halt_strand": true}', 422),
        (b'{"first": 1, "last": 1, "who": "a\\u0007", "why": "b", "halt_strand": true}', 422),
        (b'{"first": 1, "last": 1, "who": "\\ud800", "why": "b", "halt_strand": true}', 422),
        (b'{"first": 2, "last": 1, "who": "a", "why": "b", "halt_strand": true}', 422),
        (b'{"first": 0, "last": 1, "who": "a", "why": "b", "halt_strand": true}', 422),
        (b'{"first": true, "last": 1, "who": "a", "why": "b", "halt_strand": true}', 422),
        (b'{"first": 1, "last": 99999999999999999999, "who": "a", "why": "b", "halt_strand": true}', 422),
        (b'{"first": 1, "last": 1, "who": "a"}', 422),
        (b'{"first": 1, "last": 1, "who": "a", "why": "b", "halt": true}', 422),
        (b'{"first": 1, "last": 1, "who": "a", "why": "b", "halt_strand": 1}', 422),
        (b"[1]", 422),
        (b"{", 400),
        (b"[" * 10_000, 400),
        (b"\xff", 400),
        (b'{"why": "' + b"x" * 20_000 + b'"}', 413),
        (b'{"first": 1, "last": 1, "who": "a", "why": "b", "halt_strand": true}', 409),  # well said, but not missing
    ],
    ids=lambda value: value[:70].decode(errors="replace") if isinstance(value, bytes) else "",
)
async def test_a_waiver_is_read_with_care(tmp_path: Path, primary: Primary, body: bytes, status: int) -> None:
    region = Operated(tmp_path / "eu", primary)
    async with region.running():
        headers = {"Content-Type": "application/json"}
        answer = await region.request("POST", "/waive", content=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.json()["message"]


async def test_what_is_not_said_to_be_json_is_refused(tmp_path: Path, primary: Primary) -> None:
    region = Operated(tmp_path / "eu", primary)
    async with region.running():
        answer = await region.request("POST", "/resume", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["reason"]) == (415, "not_json")


async def test_a_primary_says_that_nothing_settles_there() -> None:
    port = free_port()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, application(routes(None), None), Listen("127.0.0.1", port), trio.sleep_forever)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/v1/gaps")
        nursery.cancel_scope.cancel()
    assert (answer.status_code, answer.json()["reason"]) == (404, "not_a_replica")
