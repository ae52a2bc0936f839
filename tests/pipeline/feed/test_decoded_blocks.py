"""Decoded blocks are remembered within bounds; what is not at hand is decoded from its entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.format.block import Draft
from replicator.format.statement import pack_message
from replicator.format.wire import pack_block
from replicator.pipeline.feed import decoded_blocks
from replicator.pipeline.feed.decoded_blocks import DecodedBlocks
from settle_buffer.entry import Entry
from tests.pipeline.feed.conftest import STRAND, Primary


@pytest.mark.parametrize("limit", ["BLOCKS_LIMIT", "BYTES_LIMIT"])
def test_memory_is_bounded_and_every_block_is_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    body = pack_message("n", bytes(1000))
    blocks = Primary(tmp_path / "primary.db").write([Draft(f"tx{n}", f"0/{n:X}", n, 0, 1, body) for n in range(1, 50)])
    monkeypatch.setattr(decoded_blocks, limit, 10 if limit == "BLOCKS_LIMIT" else 10 * len(body))
    decoded = DecodedBlocks()
    for _ in range(2):
        decoded.add(blocks)
        decoded.add(blocks)  # what comes twice takes no room
        assert len(decoded._blocks) == 10
        entries = [Entry(STRAND, b.header.sequence, 0, b.hash, b.header.previous, pack_block(b)) for b in blocks]
        assert [decoded.take(entry) for entry in entries] == blocks
        assert (len(decoded._blocks), decoded._bytes) == (0, 0)
