"""Blocks that were decoded and proven on arrival and are still on their way to the journal, so that this is done once.

Guarantee: memory is bounded in blocks and in bytes, however long a gap keeps what came behind it: the settle buffer
leaves that on disk, and so does this. A block that is not here is decoded from its entry.
"""

from __future__ import annotations

from collections.abc import Iterable

from replicator.format.block import Block
from replicator.format.wire import unpack_page
from settle_buffer.entry import Entry

BLOCKS_LIMIT = 20_000
BYTES_LIMIT = 64 << 20


class DecodedBlocks:
    """The blocks by their hash, which is their entry's digest."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, Block] = {}
        self._bytes = 0

    def add(self, blocks: Iterable[Block]) -> None:
        """Remember blocks for as long as there is room: the first ones, for those are asked for first."""
        for block in blocks:
            if len(self._blocks) >= BLOCKS_LIMIT or self._bytes >= BYTES_LIMIT:
                return
            if block.hash not in self._blocks:
                self._blocks[block.hash] = block
                self._bytes += len(block.body or b"")

    def take(self, entry: Entry) -> Block:
        """The block of an entry, which will not be asked for again. Raises Corrupt if the entry is no block."""
        block = self._blocks.pop(entry.digest, None)
        if block is None:
            (block,) = unpack_page(entry.body)
            return block
        self._bytes -= len(block.body or b"")
        return block
