"""The last blocks that were written, kept in memory as they were proven.

Guarantee: what is given is what was added, in order and without a gap; what has gone is read from the file again. Who
keeps up with the journal need not read and prove a second time what came just now.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence

from replicator.format.block import Block

RECENT_BYTES = 48 << 20  # some 40,000 small blocks: replay that falls behind further reads and proves them again
RECENT_OVERHEAD_BYTES = 1000  # what CPython keeps for a block beside its bytes


class RecentBlocks:
    """The last blocks of one strand."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self._sizes: deque[int] = deque()  # about the memory that each of them takes
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, blocks: Sequence[Block]) -> None:
        """Blocks that are durable now, right behind those added before."""
        # By the bytes that stay, not by the number: a block may be a hundred bytes or a megabyte.
        sizes = [RECENT_OVERHEAD_BYTES + len(encoded) + len(body or b"") for _, encoded, _, body in blocks]
        with self._lock:
            self._blocks.extend(blocks)
            self._sizes.extend(sizes)
            self._bytes += sum(sizes)
            while self._bytes > RECENT_BYTES:
                self._blocks.popleft()
                self._bytes -= self._sizes.popleft()

    def behind(self, after: int, limit_bytes: int, limit_blocks: int) -> list[Block]:
        """The blocks behind the sequence ``after``; none if the first of them is not here any more."""
        with self._lock:
            if not self._blocks:
                return []
            skipped = after + 1 - self._blocks[0].header.sequence
            if not 0 <= skipped < len(self._blocks):
                return []
            blocks = []
            sized = zip(self._blocks, self._sizes, strict=True)
            for block, size in itertools.islice(sized, skipped, min(skipped + limit_blocks, len(self._blocks))):
                blocks.append(block)
                limit_bytes -= size
                if limit_bytes <= 0:
                    break
            return blocks
