"""The published vectors: what is written here reads them, and writes them byte for byte."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from replicator.errors import Corrupt
from replicator.format.block import Block, Draft, Header, check_link, open_block, open_blocks, seal_small
from replicator.format.position import ZERO_HASH, Position, genesis, parse_position
from replicator.format.row import UNCHANGED, pack_row, unpack_row
from replicator.format.statement import unpack_statements
from replicator.format.wire import (
    End,
    FrameReader,
    Heartbeat,
    StagedPart,
    pack_block,
    pack_end,
    pack_heartbeat,
    pack_part,
)

VECTORS = Path(__file__).parents[1] / "vectors"
BLOCKS = json.loads((VECTORS / "blocks.json").read_text())
FRAMES = json.loads((VECTORS / "frames.json").read_text())


def cell(text: str | None) -> Any:
    return UNCHANGED if text == "unchanged" else None if text is None else bytes.fromhex(text)


@pytest.mark.parametrize("vector", BLOCKS["rows"])
def test_row_images(vector: dict[str, Any]) -> None:
    cells = [cell(text) for text in vector["columns"]]
    assert pack_row(cells).hex() == vector["image"]
    assert unpack_row(bytes.fromhex(vector["image"])) == cells


def test_a_row_image_is_a_tuple_of_postgresql_s_binary_copy() -> None:
    assert pack_row([b"ab", None]) == struct.pack(">hi2si", 2, 2, b"ab", -1)


def test_statements_are_those_of_the_bodies() -> None:
    listed = b"".join(bytes.fromhex(vector["bytes"]) for vector in BLOCKS["statements"])
    bodies = b"".join(bytes.fromhex(vector["body"]) for vector in BLOCKS["blocks"])
    assert list(unpack_statements(listed)) == list(unpack_statements(bodies))


def test_the_chain_by_nothing_but_msgpack_and_sha256() -> None:
    """What another implementation would do, without this project's code."""
    previous = ZERO_HASH
    for number, vector in enumerate(BLOCKS["blocks"], start=1):
        encoded, body = bytes.fromhex(vector["encoded"]), bytes.fromhex(vector["body"])
        fields = msgpack.unpackb(encoded)
        assert msgpack.packb(fields) == encoded
        assert fields[:3] == [1, "main", number]
        assert fields[7] == previous
        assert fields[10:] == [len(body), hashlib.sha256(body).digest()]
        previous = hashlib.sha256(encoded).digest()
        assert previous.hex() == vector["hash"]


def test_sealing_gives_the_chain() -> None:
    previous = genesis("main")
    for vector in BLOCKS["blocks"]:
        header = vector["header"]
        body = bytes.fromhex(vector["body"])
        draft = Draft(
            header["txid"], header["origin"], header["committed_at"], header["flags"], header["statements"], body
        )
        (block,) = seal_small([draft], previous, header["epoch"])
        assert block.encoded.hex() == vector["encoded"]
        assert block == open_block(block.encoded, body)
        assert parse_position(vector["position"]) == block.position
        check_link(previous, block)
        previous = block.position


@pytest.mark.parametrize("vector", FRAMES["frames"], ids=lambda vector: vector["is"])
def test_frames_are_read_and_written(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    reader = FrameReader()
    frames = []
    for place in range(len(data)):  # byte by byte, as the worst network would
        reader.feed(data[place : place + 1])
        frames += list(reader)
    (frame,) = frames
    match frame:
        case Block():
            assert pack_block(frame) == data
        case Heartbeat():
            assert pack_heartbeat(frame) == data
        case StagedPart():
            assert pack_part(frame.sequence, frame.number, frame.part) == data
        case End():
            assert pack_end(frame.reason) == data


@pytest.mark.parametrize("vector", FRAMES["refused"], ids=lambda vector: vector["why"])
def test_what_is_not_a_frame_is_refused(vector: dict[str, Any]) -> None:
    reader = FrameReader()
    reader.feed(bytes.fromhex(vector["bytes"]))
    with pytest.raises(Corrupt):
        list(reader)


def test_every_changed_byte_of_a_block_is_noticed() -> None:
    vector = BLOCKS["blocks"][1]
    encoded, body = bytes.fromhex(vector["encoded"]), bytes.fromhex(vector["body"])
    for place in range(len(encoded)):
        spoiled = encoded[:place] + bytes([encoded[place] ^ 1]) + encoded[place + 1 :]
        try:
            block = open_block(spoiled, body)
        except Corrupt:
            continue
        assert block.hash.hex() != vector["hash"]
    for place in range(len(body)):
        with pytest.raises(Corrupt):
            open_block(encoded, body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])


def test_blocks_opened_together_are_judged_as_one_by_one() -> None:
    vector = BLOCKS["blocks"][1]
    encoded, body = bytes.fromhex(vector["encoded"]), bytes.fromhex(vector["body"])
    good = open_block(encoded, body)
    for place in range(len(encoded)):
        spoiled = encoded[:place] + bytes([encoded[place] ^ 0x11]) + encoded[place + 1 :]
        headers, bodies = [encoded, spoiled, encoded], [body] * 3
        assert _opened(open_blocks(headers, bodies)) == _opened(map(open_block, headers, bodies))
    assert _opened(open_blocks([encoded, encoded], [body, body + b"x"])) == ([good], True)
    assert _opened(open_blocks([encoded], [body])) == ([good], False)


def _opened(blocks: Iterable[Block]) -> tuple[list[Block], bool]:
    """What came out, and whether a Corrupt ended it."""
    out = []
    try:
        for block in blocks:
            out.append(block)
    except Corrupt:
        return out, True
    return out, False


def test_the_header_names_all_its_fields() -> None:
    assert list(BLOCKS["blocks"][0]["header"]) == list(Header._fields)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "main",
        "main:1:2",
        "main:1:2:zz",
        f"main:-1:2:{'0' * 64}",
        f"main:1:{2**63}:{'0' * 64}",
        f":1:2:{'0' * 64}",
        f"main:1:2:{'0' * 63}",
        f"main:\u0661:2:{'0' * 64}",
        f"a b:1:2:{'0' * 64}",
    ],
)
def test_what_is_not_a_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"position|strand|whole numbers|hash"):
        parse_position(text)


def test_a_position_reads_back() -> None:
    position = Position("main", 3, 7, bytes(range(32)))
    assert parse_position(str(position)) == position
