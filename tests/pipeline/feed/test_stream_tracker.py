"""When a feed has sent everything, and when that cannot be told."""

from __future__ import annotations

from replicator.format.block import Block, BlockPart, Draft, seal_small
from replicator.format.position import Position, genesis
from replicator.format.wire import Frame, Heartbeat, StagedPart
from replicator.pipeline.feed.stream_tracker import StreamTracker


def beat(sequence: int) -> Heartbeat:
    return Heartbeat(Position("main", 1, sequence, bytes(32)), 0, 0, None)


def block() -> Block:
    return seal_small([Draft("tx", "0/1", 1, 0, 1, b"\x92\x08\x01")], genesis("main"), 1)[0]


def told(*batches: list[Frame]) -> list[int | None]:
    sent = StreamTracker()
    return [sent.up_to(batch) for batch in batches]


def test_the_first_heartbeat_tells_nothing() -> None:
    assert told([beat(900)]) == [None]


def test_a_second_one_tells_what_the_first_one_named() -> None:
    assert told([beat(900)], [beat(905)], [beat(905)]) == [None, 900, 905]
    assert told([beat(900), beat(905)]) == [900]


def test_a_head_that_is_taken_back_is_nothing_that_was_sent() -> None:
    assert told([beat(1 << 52)], [beat(900)], [beat(901)]) == [None, 900, 900]
    assert told([beat(1 << 52), beat(900)]) == [900]


def test_what_comes_between_shows_that_more_is_to_come() -> None:
    part = StagedPart(1, 0, BlockPart(1, b""))
    for between in (block(), part):
        assert told([beat(900)], [between], [beat(905)]) == [None, None, None]
        assert told([beat(900)], [between, beat(905)], [beat(907)]) == [None, None, 905]
        assert told([beat(900), between, beat(905)]) == [None]
        assert told([beat(900), between, beat(905), beat(906)]) == [905]


def test_a_batch_that_ends_otherwise_tells_nothing() -> None:
    assert told([beat(900), beat(905), block()], [beat(906)]) == [None, None]
