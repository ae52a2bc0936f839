"""The last blocks that were written, kept in memory as they were proven.

Guarantee: what is given is what was added, in order and without a gap; what has gone is read from the file again. Who
keeps up with the journal need not read and prove a second time what came just now.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence

from replicator.block import Block

RECENT_BYTES = 16 << 20
RECENT_OVERHEAD_BYTES = 1000  # what CPython keeps for a block beside its bytes


class Recent:
    """The last blocks of one strand."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, blocks: Sequence[Block]) -> None:
        """Blocks that are durable now, right behind those added before."""
        with self._lock:
            self._blocks.extend(blocks)
            self._bytes += sum(map(_size, blocks))
            while self._bytes > RECENT_BYTES:
                self._bytes -= _size(self._blocks.popleft())

    def behind(self, after: int, limit_bytes: int, limit_blocks: int) -> list[Block]:
        """The blocks behind the sequence ``after``; none if the first of them is not here any more."""
        with self._lock:
            if not self._blocks:
                return []
            skipped = after + 1 - self._blocks[0].header.sequence
            if not 0 <= skipped < len(self._blocks):
                return []
            found = []
            for block in itertools.islice(self._blocks, skipped, min(skipped + limit_blocks, len(self._blocks))):
                found.append(block)
                limit_bytes -= _size(block)
                if limit_bytes <= 0:
                    break
            return found


def _size(block: Block) -> int:
    """About the memory that a block takes."""
    return RECENT_OVERHEAD_BYTES + len(block.encoded) + (len(block.body) if block.body else 0)
