"""The replay loop: waits for the journal, applies, tells how far the replica is; can be held for a comparison.

Guarantee: a step that has begun is seen through, also when the sidecar stops, so that its outcome is known. A hold
stops replay exactly at a sequence and ends by itself: nobody who dies can stop replication. The replica has one writer
at a time: whoever else has to write to it does so between two steps (``ReplayLoop.between_steps``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import trio

from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import AppliedMark, Replica
from replicator.storage.journal.head import JournalHead

T = TypeVar("T")


class ReplayHold:
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
                await self._changed.wait()  # another hold may have taken this one's place: look again


class ReplayLoop:
    """Brings the replica after the journal, for ever.

    ``on_opened`` is told where a replica stands that was opened: that may be behind where it stood, for its server may
    lose its last commits when it is killed.
    """

    def __init__(
        self,
        replayer: Replayer,
        journal_head: JournalHead,
        hold: ReplayHold,
        on_applied: Callable[[AppliedMark], None],
        on_opened: Callable[[AppliedMark], None] = lambda applied: None,
    ) -> None:
        self._replayer = replayer
        self._journal_head = journal_head
        self._hold = hold
        self._on_applied = on_applied
        self._on_opened = on_opened
        self._stepping = trio.Lock()

    async def run_once(self) -> None:
        """Open the replica and follow the journal until something is raised: Unavailable or Halted."""
        async with self._stepping:
            applied = await self._open()
        while True:
            self._on_applied(applied)
            await self._journal_head.beyond(applied.position.sequence)
            await self._hold.passes(applied.position.sequence)
            async with self._stepping:  # the hold is read under it: one that was set meanwhile counts already
                if self._replayer.is_open:
                    applied = await trio.to_thread.run_sync(self._replayer.step, self._hold.until)
                else:  # what was run between two steps failed
                    applied = await self._open()

    async def _open(self) -> AppliedMark:
        applied = await trio.to_thread.run_sync(self._replayer.open)
        self._on_opened(applied)
        return applied

    async def between_steps(self, work: Callable[[Replica, AppliedMark], T]) -> T:
        """Run ``work(replica, applied)`` in a worker thread while no step runs; also while replay is halted or held.

        It begins and ends its transactions itself and leaves the position as it is: ``replica.commit(applied)``. Raises
        what it raises, or what opening the replica raises; the replica is then opened again before it is used.
        """
        async with self._stepping:
            return await trio.to_thread.run_sync(self._replayer.run, work)

    async def pause(self, seconds: float) -> AppliedMark:
        """Hold replay where it is, for so many seconds; gives where that is."""
        self._hold.set(0, seconds)  # a sequence that it has passed, whatever it is at
        async with self._stepping:  # a step that began before the hold is seen through
            return self._replayer.applied
