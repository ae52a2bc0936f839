"""The journal's end as something that trio tasks wait for.

Guarantee: a task that waits for more than sequence N wakes once N + 1 is durable, and never misses the move: the end is
looked at and the wait begun without a checkpoint between. Whoever writes the journal says ``moved``.
"""

from __future__ import annotations

import trio

from replicator.format.position import Position


class JournalHead:
    """The end of one strand's chain."""

    def __init__(self, position: Position, committed_at: int = 0) -> None:
        self.position = position
        self.committed_at = committed_at  # of the last block, µs since 1970
        self._moved = trio.Event()

    def moved(self, position: Position, committed_at: int) -> None:
        """The journal's end is now at ``position``, durably; it was committed at ``committed_at``."""
        self.position = position
        self.committed_at = committed_at
        self._moved.set()
        self._moved = trio.Event()

    async def beyond(self, sequence: int) -> None:
        """Return once the end is beyond ``sequence``."""
        while self.position.sequence <= sequence:
            await self._moved.wait()
