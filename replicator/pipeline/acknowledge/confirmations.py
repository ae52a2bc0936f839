"""What a source's ledger may be told is durable: a block's origin, once the block's sequence is released.

Guarantee: an origin is confirmed only when its own block and all before it are released; memory is bounded: where too
many wait, every second one is given up and is confirmed with the one behind it. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

ORIGINS_LIMIT = 65_536


class ConfirmationQueue:
    """The origins of blocks that wait for their release, in order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, str]] = deque()
        self._released = 0

    def begin(self, sequence: int, origin: str | None) -> str | None:
        """A run of the source begins behind this block, whose origin may be confirmed already; gives it then."""
        self._waiting.clear()  # those of the run before: all of them are up to this block, which stands for them
        return self.add([(sequence, origin)] if origin is not None else [])

    def add(self, blocks: Iterable[tuple[int, str]]) -> str | None:
        """Blocks (sequence, origin) that are durable here; the origin to confirm now, if one is released already."""
        self._waiting.extend(blocks)
        if len(self._waiting) > ORIGINS_LIMIT:
            # From the end, so that the last one stays: a ledger that falls silent must hear of it.
            self._waiting = deque(reversed(list(self._waiting)[::-2]))
        return self.release(self._released)

    def release(self, sequence: int) -> str | None:
        """Everything up to ``sequence`` is released; the origin to confirm, if that is news."""
        self._released = max(self._released, sequence)
        origin = None
        while self._waiting and self._waiting[0][0] <= self._released:
            _, origin = self._waiting.popleft()
        return origin
