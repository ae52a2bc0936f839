"""Following over real HTTP: nothing lost, doubled or reordered, whatever the connection and the feed do."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from replicator.errors import Unavailable
from replicator.format.block import BODY_LIMIT_BYTES, BlockPart, Draft, seal_small
from replicator.format.position import genesis
from replicator.format.statement import pack_insert, pack_message
from replicator.format.wire import pack_block, unpack_page
from replicator.pipeline.feed.publish import Publisher
from replicator.storage.journal.reading import JournalPage
from tests.pipeline.feed.conftest import STRAND, Primary, Region, drafts


async def reach(region: Region, sequence: int) -> None:
    """Follow until the region's journal is at ``sequence``."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await region.tail.beyond(sequence - 1)
            nursery.cancel_scope.cancel()


async def test_a_region_catches_up_and_then_follows(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    region = Region(tmp_path / "eu", primary)
    primary.write(drafts(1, 5000))
    async with primary.serving():
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(region.follower.run_once)
                await region.tail.beyond(4999)
                for n in range(5001, 5021):
                    primary.write(drafts(n, n))
                    await region.tail.beyond(n - 1)
                nursery.cancel_scope.cancel()
    assert region.journal.head(STRAND) == primary.journal.head(STRAND)
    assert region.bodies() == [b.body for b in primary.journal.blocks(STRAND, 0, 1 << 30)]
    assert region.recorder.heartbeats > 0


async def test_a_cut_connection_is_resumed(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    region = Region(tmp_path / "eu", primary)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            for n in range(1, 6):
                async with primary.serving():
                    primary.write(drafts(100 * n - 99, 100 * n))
                    await region.tail.beyond(100 * n - 1)
                await region.recorder.waited.wait()
                region.recorder.waited = trio.Event()
            nursery.cancel_scope.cancel()
    assert region.journal.head(STRAND) == primary.journal.head(STRAND)
    assert {cause.reason for cause in region.recorder.waits} <= {"feed_unreachable", "feed_closed"}


async def test_a_region_that_restarts_goes_on_where_it_was(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    async with primary.serving():
        for n in range(1, 5):
            primary.write(drafts(10 * n - 9, 10 * n))
            await reach(Region(tmp_path / "eu", primary), 10 * n)
    assert Region(tmp_path / "eu", primary).bodies() == [b.body for b in primary.journal.blocks(STRAND, 0, 1 << 30)]


async def test_a_large_block_travels_in_parts(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    region = Region(tmp_path / "eu", primary)
    parts = [BlockPart(1, pack_insert(1, bytes([n]) * BODY_LIMIT_BYTES)) for n in range(5)]
    primary.write([*drafts(1, 1), *parts, Draft("big", "0/2", 20, 0, 5, None), *drafts(3, 3)])
    async with primary.serving():
        await reach(region, 3)
    assert list(region.journal.parts(STRAND, 2)) == parts
    assert region.recorder.stagings > 0
    assert region.journal.head(STRAND) == primary.journal.head(STRAND)


class Unreliable(Publisher):
    """Drops, doubles and reorders blocks of the live stream; a range that is asked for comes right."""

    draws = random.Random(20260101)
    dropped = 0

    async def _page(self, strand: str, page: JournalPage, after: int, until: int | None) -> AsyncIterator[bytes]:
        if until is not None:
            async for data in super()._page(strand, page, after, until):
                yield data
            return
        blocks = [block for block in unpack_page(page.data) if block.header.sequence > after]
        kept = [block for block in blocks if self.draws.random() > 0.02]
        kept += [block for block in blocks if self.draws.random() < 0.02]
        kept.sort(key=lambda block: block.header.sequence + self.draws.uniform(0, 50))
        Unreliable.dropped += len(blocks) - len(set(kept))
        yield b"".join(map(pack_block, kept))


async def test_a_feed_that_drops_doubles_and_reorders_is_put_right(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db", Unreliable)
    region = Region(tmp_path / "eu", primary)
    primary.write(drafts(1, 3000))
    async with primary.serving():
        await reach(region, 2900)  # the last ones may be dropped with nothing behind them to show it
    assert Unreliable.dropped > 0
    mine, theirs = region.journal.blocks(STRAND, 0, 1 << 30), primary.journal.blocks(STRAND, 0, 1 << 30)
    assert mine == theirs[: len(mine)]
    assert region.follower.status().strands[0].duplicates > 0


async def test_another_history_halts_and_names_the_first_different_sequence(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    region = Region(tmp_path / "eu", primary)
    region.journal.accept(STRAND, primary.write(drafts(1, 40)))
    primary.write(drafts(41, 100))
    region.journal.append(STRAND, drafts(141, 170), 1)
    region = Region(tmp_path / "eu", primary)
    async with primary.serving(), trio.open_nursery() as nursery:
        nursery.start_soon(region.follower.run_once)
        with trio.fail_after(10):
            await region.recorder.halted.wait()
        nursery.cancel_scope.cancel()
    (halt,) = region.recorder.halts
    assert halt.reason == "diverged"
    assert "diverged at sequence 41:" in halt.message
    assert region.journal.head(STRAND).sequence == 70


async def test_a_region_ahead_of_its_primary_halts(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    region = Region(tmp_path / "eu", primary)
    region.journal.append(STRAND, drafts(1, 5), 1)
    region = Region(tmp_path / "eu", primary)
    async with primary.serving(), trio.open_nursery() as nursery:
        nursery.start_soon(region.follower.run_once)
        with trio.fail_after(10):
            await region.recorder.halted.wait()
        nursery.cancel_scope.cancel()
    assert [halt.reason for halt in region.recorder.halts] == ["ahead_of_primary"]


async def test_a_wrong_token_halts_with_the_cure(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    region = Region(tmp_path / "eu", primary, token="guess")
    async with primary.serving(token="secret"), trio.open_nursery() as nursery:
        nursery.start_soon(region.follower.run_once)
        with trio.fail_after(10):
            await region.recorder.halted.wait()
        nursery.cancel_scope.cancel()
    (halt,) = region.recorder.halts
    assert halt.reason == "feed_unauthorised"
    assert "guess" not in str(halt)


async def test_what_arrived_is_drained_without_the_region_that_sent_it(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "primary.db")
    region = Region(tmp_path / "eu", primary)
    primary.write(drafts(1, 10))

    def no_room(*_: object) -> None:
        raise Unavailable("disk_full", "there is no room")

    with pytest.MonkeyPatch.context() as full:
        full.setattr(region.journal, "accept", no_room)
        async with primary.serving():
            with trio.fail_after(10):
                with pytest.raises(BaseExceptionGroup) as group:
                    await region.follower.run_once()
    assert group.value.subgroup(Unavailable) is not None
    region.follower.follow(None)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(region.follower.run_once)
            await region.tail.beyond(9)
            assert region.follower.is_drained
            nursery.cancel_scope.cancel()


class Garbling(Publisher):
    """Its first answers hold something else than frames, or a length that is none; then it is as it should be."""

    said: ClassVar[list[bytes]] = []

    async def _stream(self, *arguments: Any, **more: Any) -> AsyncIterator[bytes]:
        if self.said:
            yield self.said.pop(0)
        async for data in super()._stream(*arguments, **more):
            yield data


GARBLED = Draft("tx1", "0/1", 10, 0, 1, pack_message("n", b"1"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([b"<html>502 Bad Gateway</html>"], "bad_frame"),
        ([pack_block(block)[:-1] + b"!" for block in seal_small([GARBLED], genesis(STRAND), 1)], "body_mismatch"),
        ([b"\xc6\x3f\xff\xff\xff"], "feed_silent"),
        ([b"\xc6\xff\xff\xff\xff"], "feed_silent"),
    ],
)
async def test_an_answer_that_cannot_be_read_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[bytes], reason: str
) -> None:
    monkeypatch.setattr(Garbling, "said", list(said))
    primary = Primary(tmp_path / "primary.db", Garbling)
    primary.write(drafts(1, 3))
    region = Region(tmp_path / "eu", primary)
    async with primary.serving():
        await reach(region, 3)
    assert not region.recorder.halts
    assert [cause.reason for cause in region.recorder.waits] == [reason]
    assert region.journal.head(STRAND) == primary.journal.head(STRAND)
