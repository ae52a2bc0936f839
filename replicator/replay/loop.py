"""The replay loop: waits for the journal, applies, tells how far the replica is; can be held for a comparison, and lets
others work on the replica between two steps.

Guarantee: a step that has begun is seen through, also when the sidecar stops, so that its outcome is known. A hold
stops replay exactly at a sequence and ends by itself: nobody who dies can stop replication. Work between two steps
is seen through as a step is; it finds the replica at a whole position, at which it stays until the work is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import trio

from replicator.journal.tail import Tail
from replicator.replay.apply import Replayer
from replicator.replicas.base import Applied, Replica

T = TypeVar("T")


class Hold:
    """Keeps replay from passing a sequence until a deadline (trio's clock)."""

    def __init__(self) -> None:
        self._until: int | None = None
        self._deadline = -math.inf
        self._changed = trio.Event()

    @property
    def until(self) -> int | None:
        """The sequence not to pass, None if there is no hold."""
        return self._until if trio.current_time() < self._deadline else None

    def set(self, until: int, seconds: float) -> None:
        """Hold at ``until`` for so many seconds; replaces the hold before."""
        self._change(until, trio.current_time() + seconds)

    def release(self) -> None:
        """Let replay go on."""
        self._change(None, -math.inf)

    def _change(self, until: int | None, deadline: float) -> None:
        self._until, self._deadline = until, deadline
        self._changed.set()
        self._changed = trio.Event()

    async def passes(self, sequence: int) -> None:
        """Return once replay may pass ``sequence``."""
        while self.until is not None and self.until <= sequence:
            with trio.move_on_at(self._deadline):
                await self._changed.wait()


class Replay:
    """Brings the replica after the journal, for ever.

    ``on_opened`` is told where a replica stands that was opened: that may be behind where it stood, for its server may
    lose its last commits when it is killed.
    """

    def __init__(
        self,
        replayer: Replayer,
        tail: Tail,
        hold: Hold,
        on_applied: Callable[[Applied], None],
        on_opened: Callable[[Applied], None] = lambda applied: None,
    ) -> None:
        self._replayer = replayer
        self._tail = tail
        self._hold = hold
        self._on_applied = on_applied
        self._on_opened = on_opened
        self._stepping = trio.Lock()
        self._runs = False

    async def run_once(self) -> None:
        """Open the replica and follow the journal until something is raised: Unavailable or Halted."""
        async with self._stepping:
            applied = await trio.to_thread.run_sync(self._replayer.open)
        self._on_opened(applied)
        self._runs = True
        try:
            while True:
                self._on_applied(applied)
                await self._tail.beyond(applied.position.sequence)
                await self._hold.passes(applied.position.sequence)
                async with self._stepping:
                    applied = await trio.to_thread.run_sync(self._replayer.step, self._hold.until)
        finally:
            self._runs = False

    async def between(self, work: Callable[[Replica], T]) -> T:
        """Run ``work`` on the replica between two steps, in a worker thread; what it did not commit is undone.

        A replay that has met an error does not run: then the replica is opened for the work, so that what stops replay
        can be repaired. Raises what ``work`` does; Unavailable or Halted if the replica cannot be opened.
        """
        async with self._stepping:
            if not self._runs:
                await trio.to_thread.run_sync(self._replayer.open)
            return await trio.to_thread.run_sync(self._replayer.between, work)

    async def pause(self, seconds: float) -> Applied:
        """Hold replay where it is, for so many seconds; gives where that is."""
        self._hold.set(0, seconds)
        async with self._stepping:  # a step that began before the hold is seen through
            return self._replayer.applied
