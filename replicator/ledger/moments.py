"""Exact moments of the embedded ledger: its state carries its position, so a snapshot of it is a moment."""

from __future__ import annotations

from collections.abc import Callable

import trio

from replicator.format.position import Position
from replicator.pipeline.replicas.base import Reader
from replicator.pipeline.replicas.moments import Moment, fix_moment


class LedgerMoments:
    """See ``pipeline.replicas.moments.Moments``. A primary does not stop for a comparison: ``pause`` only tells where
    it is."""

    def __init__(self, strand: str, open_reader: Callable[[], Reader]) -> None:
        self._strand = strand
        self._open_reader = open_reader

    async def pause(self, seconds: float) -> Position:
        moment = await self.fix(None)
        moment.reader.close()
        return moment.position

    def release(self) -> None:
        """There is nothing to release."""

    async def fix(self, at: int | None) -> Moment:
        return await trio.to_thread.run_sync(fix_moment, self._open_reader, self._strand, at)
