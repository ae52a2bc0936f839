"""A primary that sends anything: what cannot be right halts with a name, what can get better waits, nothing is lost.

Every case is a real sidecar that follows a server of raw bytes. When that server turns honest the region follows it
to the end and is equal to the primary.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgpack
import pytest

from replicator.format.block import HAS_DEFINITIONS, Block, Draft, seal_small
from replicator.format.position import Position, genesis
from replicator.format.wire import FrameReader, pack_block
from tests.faults.hostile import HEAD, STREAM, HostileFeed
from tests.faults.regions import EMBEDDED, Region, assert_equal, follow, sqlite_replica

BLOCKS = 30
HALF = 12
MEMORY_LIMIT_BYTES = 200_000_000
BOMB = gzip.compress(bytes(400_000_000), 1)  # 1.7 MB
HOSTILE_NUMBER = 2**64 - 1


def _forged(previous: Position, body: bytes, *, flags: int = 0, at: int = 1, statements: int = 1) -> bytes:
    (block,) = seal_small([Draft("forged", "", at, flags, statements, body)], previous, 1)
    return pack_block(block)


def _json(status: str, content: bytes, *headers: bytes) -> bytes:
    length = b"Content-Length: " + str(len(content)).encode()
    return b"\r\n".join([b"HTTP/1.1 " + status.encode(), length, *headers, b"", content])


class Cases:
    """The answers, made of a primary's true blocks."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.frames = [pack_block(block) for block in blocks]

    def behind(self, path: str) -> int:
        """The sequence behind which the follower asks."""
        return int(httpx.URL(path).params.get("after", "0"))

    def position(self, sequence: int) -> Position:
        return self.blocks[sequence - 1].position if sequence else genesis("main")

    # -- what halts: (reason, what is sent instead of the stream)

    def sent(self, *frames: bytes) -> Callable[[str], Iterator[bytes]]:
        """Good blocks up to the half, then this."""

        def answer(path: str) -> Iterator[bytes]:
            yield STREAM + b"".join(self.frames[self.behind(path) : HALF])
            yield from frames

        return answer

    def halting(self) -> dict[str, tuple[str, Callable[[str], Iterator[bytes]]]]:
        here = self.position(HALF)
        altered = bytearray(self.frames[HALF])
        altered[-3] ^= 1
        stranger = Position("other", 1, HALF, here.hash)
        other_past = here._replace(hash=bytes(32))
        return {
            "array": ("bad_frame", self.sent(b"\xdd\xff\xff\xff\xff")),
            "altered": ("body_mismatch", self.sent(bytes(altered))),
            "strand": ("other_strand", self.sent(_forged(stranger, b""))),
            "link": ("conflict", self.sent(_forged(other_past, b""))),
            "time": ("bad_header", self.sent(_forged(here, b"", at=HOSTILE_NUMBER))),
            "part": ("bad_frame", self.sent(msgpack.packb([2, HALF + 1, HOSTILE_NUMBER, 1, b"x"]))),
            "relation": (
                "number_too_large",
                self.sent(_forged(here, msgpack.packb([6, HOSTILE_NUMBER, self.definition()]), flags=HAS_DEFINITIONS)),
            ),
            "statement": ("bad_statement", self.sent(_forged(here, b"\xc1garbage"))),
            "bomb": ("bad_answer", self.bomb),
            "redirect": ("refused", lambda path: iter([_json("302 Found", b"", b"Location: http://127.0.0.1:1/")])),
            "fork": ("bad_answer", self.fork),
        }

    def definition(self) -> bytes:
        for block in self.blocks:
            if block.header.flags & HAS_DEFINITIONS:
                return bytes(msgpack.unpackb(block.body or b"")[2])
        raise AssertionError("the first block declares the table")

    def bomb(self, path: str) -> Iterator[bytes]:
        yield HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
        yield BOMB

    def fork(self, path: str) -> Iterator[bytes]:
        """*Diverged*, and then a position that unpacks to 400 MB."""
        if "/positions/" in path:
            yield _json("200 OK", BOMB, b"Content-Encoding: gzip")
        elif self.behind(path) == 0:
            yield STREAM + b"".join(self.frames[:HALF])
        else:
            yield _json("409 Conflict", json.dumps({"reason": "diverged", "message": "so it says"}).encode())

    # -- what can get better: (reason that is shown, answer)

    def waiting(self) -> list[tuple[str, Callable[[str], Iterator[bytes]]]]:
        return [
            ("refused", lambda path: iter([_json("500 Internal Server Error", b"oops")])),
            ("refused", lambda path: iter([_json("503 Unavailable", b"[" * 60_000)])),
            ("refused", lambda path: iter([_json("429 Slow", b"\xff" * 300_000)])),
            ("feed_unreachable", lambda path: iter([b"\x00\x01\x02 SSH-2.0-garbage\r\n\r\n"])),
            ("feed_unreachable", lambda path: iter([HEAD + b"X: " + b"y" * 300_000])),
            ("feed_unreachable", lambda path: iter([HEAD + b"Content-Length: 100\r\n\r\n" + self.frames[0][:50]])),
            ("feed_closed", self.half),
            ("feed_closed", self.sent(b"\x93\x01\xc6\xff\xff\xff\xff" + bytes(1_000_000))),  # a header of 4 GB
            ("feed_unreachable", lambda path: iter([])),
        ]

    def half(self, path: str) -> Iterator[bytes]:
        """Whole blocks, and the beginning of another."""
        after = self.behind(path)
        stream = b"".join(self.frames[after : HALF + 1])
        yield STREAM + stream[: len(stream) - 7 if after < HALF else 20]


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    region = Region(tmp_path_factory.mktemp("honest"), "paris", "primary", EMBEDDED)
    region.start()
    region.reach_sequence("applied", 1)
    for number in range(BLOCKS - 1):  # the first block declares the table
        assert region.write(number, 1).status_code == 200
    yield region
    region.end()


@pytest.fixture(scope="module")
def cases(primary: Region) -> Cases:
    reader = FrameReader()
    reader.feed(primary.ask(f"/feed/v1/main?after=0&until={BLOCKS}").content)
    return Cases([frame for frame in reader if isinstance(frame, Block)])


@pytest.fixture
def feed(primary: Region) -> Iterator[HostileFeed]:
    feed = HostileFeed(primary.port)
    yield feed
    feed.close()


def _regions(feed: HostileFeed, directory: Path, names: list[str], **more: str) -> Iterator[Region]:
    for name in names:
        yield Region(directory, name, "replica", follow(feed.url(name), **more) + sqlite_replica())


# What the chain itself contradicts; what only cannot be read is asked for again, and goes on by itself.
HALTS = frozenset({"strand", "link", "relation", "statement", "fork"})


def test_what_cannot_be_right_halts_or_waits_by_name_and_a_good_feed_cures_it(
    feed: HostileFeed, cases: Cases, tmp_path: Path
) -> None:
    halting = cases.halting()
    feed.cases = {name: answer for name, (_, answer) in halting.items()}
    regions = list(_regions(feed, tmp_path, list(halting)))
    try:
        for region in regions:
            region.start()
        for region in regions:
            condition = "halted" if region.name in HALTS else "waiting"
            trouble = region.trouble(halting[region.name][0], condition=condition)
            assert trouble["cure"], (region.name, trouble)
            assert region.ask("/health").status_code == (503 if region.name in HALTS else 200)
            assert region.resident_bytes() < MEMORY_LIMIT_BYTES, region.name
        for region in regions:
            if region.name in HALTS:
                assert region.stop() == 0
        feed.cases.clear()
        cured = [region for region in regions if region.name not in HALTS or region.name == "fork"]
        for region in cured:
            if region.name in HALTS:
                region.start()
        for region in cured:
            region.reach_sequence("applied", BLOCKS)
            region.reach_calm()
        assert_equal(*cured)
    finally:
        for region in regions:
            region.end()


def asked_twice(feed: HostileFeed) -> Callable[[object], bool]:
    """Whether it was, since this call, for the case that is waited for."""
    before = feed.asked.get("waits", 0)
    return lambda _: feed.asked.get("waits", 0) > before + 1


def test_what_can_get_better_is_waited_for_visibly(feed: HostileFeed, cases: Cases, tmp_path: Path) -> None:
    (region,) = _regions(feed, tmp_path, ["waits"], idle_timeout="600ms")
    feed.cases["waits"] = cases.waiting()[0][1]
    region.start()
    try:
        for reason, answer in cases.waiting():
            is_asked_twice = asked_twice(feed)
            feed.cases["waits"] = answer
            region.reach(is_asked_twice, "asked twice")
            region.trouble(reason, condition="waiting")

        def nothing(path: str) -> Iterator[bytes]:
            yield STREAM
            feed.closing.wait(30)

        feed.cases["waits"] = nothing
        assert region.trouble("feed_silent", condition="waiting")["place"] == feed.url("waits")
        feed.cases.clear()
        region.reach_sequence("applied", BLOCKS)
        region.reach_calm()
        assert_equal(region)
    finally:
        region.end()
