"""Exact moments of a replica: replay can be held at a sequence that it has not passed.

Guarantee: to meet another region at a sequence, replay is held there only for as long as it takes to open the snapshot;
a hold that nobody releases ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from replicator.errors import Rejected
from replicator.format.position import Position
from replicator.pipeline.replay.loop import ReplayHold, ReplayLoop
from replicator.pipeline.replicas.base import Reader
from replicator.pipeline.replicas.moments import Moment, fix_moment
from replicator.storage.journal.head import JournalHead

REACH_SECONDS = 60.0


class ReplicaMoments:
    """See ``pipeline.replicas.moments.Moments``. ``applied`` is where the replica stands; ``hold`` is the one that
    ``replay`` asks before each step."""

    def __init__(
        self, replay: ReplayLoop, hold: ReplayHold, applied: JournalHead, open_reader: Callable[[], Reader]
    ) -> None:
        self._replay = replay
        self._hold = hold
        self._applied = applied
        self._open_reader = open_reader

    async def pause(self, seconds: float) -> Position:
        return (await self._replay.pause(seconds)).position

    def release(self) -> None:
        self._hold.release()

    async def fix(self, at: int | None) -> Moment:
        strand = self._applied.position.strand
        if at is None:
            return await trio.to_thread.run_sync(fix_moment, self._open_reader, strand, None)
        self._hold.set(at, REACH_SECONDS)  # takes the place of a pause: replay runs up to the sequence and stays there
        try:
            with trio.move_on_after(REACH_SECONDS) as waiting:
                await self._applied.beyond(at - 1)
            if waiting.cancelled_caught:
                raise Rejected(
                    "not_reached",
                    f"sequence {at} was not applied within {REACH_SECONDS:.0f} s",
                    status=503,
                    retry_after=5,
                    place=f"strand {strand}",
                    cure="see the region's status for what it waits for",
                )
            return await trio.to_thread.run_sync(fix_moment, self._open_reader, strand, at)
        finally:
            self._hold.release()
