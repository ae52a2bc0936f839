"""One exact moment of a region: a reader whose rows and position belong together.

Guarantee: ``fix`` gives a reader that sees exactly the position it names; replication goes on meanwhile, because the
database's own snapshot keeps the moment. To meet another region at the same sequence, replay is held there for as long
as it takes to open the snapshot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import trio

from replicator.errors import Rejected
from replicator.format.position import Position, genesis
from replicator.pipeline.replay.loop import ReplayHold, ReplayLoop
from replicator.pipeline.replicas.base import Reader
from replicator.storage.journal.head import JournalHead

REACH_SECONDS = 60.0


class Moment(NamedTuple):
    """A position, and a reader that sees it until it is closed."""

    position: Position
    reader: Reader


class Moments(Protocol):
    """How a region's moments are had."""

    async def pause(self, seconds: float) -> Position:
        """Stop moving, if this region follows another one; gives where."""

    def release(self) -> None:
        """Move on."""

    async def fix(self, at: int | None) -> Moment:
        """The moment at a sequence, or now. Raises Rejected (``moment_passed``, ``not_reached``)."""


class LedgerMoments:
    """The embedded ledger's: its state carries its position."""

    def __init__(self, strand: str, open_reader: Callable[[], Reader]) -> None:
        self._strand = strand
        self._open_reader = open_reader

    async def pause(self, seconds: float) -> Position:
        moment = await self.fix(None)
        moment.reader.close()
        return moment.position

    def release(self) -> None:
        pass

    async def fix(self, at: int | None) -> Moment:
        return await trio.to_thread.run_sync(_fixed, self._open_reader, self._strand, at)


class ReplicaMoments:
    """A replica's: replay can be held at a sequence that it has not passed."""

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
        if at is None:
            return await trio.to_thread.run_sync(_fixed, self._open_reader, self._applied.head.strand, None)
        self._hold.set(at, REACH_SECONDS)
        try:
            with trio.move_on_after(REACH_SECONDS) as waiting:
                await self._applied.beyond(at - 1)
            if waiting.cancelled_caught:
                raise Rejected(
                    "not_reached",
                    f"sequence {at} was not applied within {REACH_SECONDS:.0f} s",
                    status=503,
                    retry_after=5,
                    place=f"strand {self._applied.head.strand}",
                    cure="see the region's status for what it waits for",
                )
            return await trio.to_thread.run_sync(_fixed, self._open_reader, self._applied.head.strand, at)
        finally:
            self._hold.release()


def _fixed(open_reader: Callable[[], Reader], strand: str, at: int | None) -> Moment:
    with _closed_on_error(open_reader()) as reader:
        reader.snapshot()
        applied = reader.applied(strand)
        position = applied.position if applied else genesis(strand)
        if at is not None and position.sequence != at:
            message = f"the region is at sequence {position.sequence}, not at {at}"
            raise Rejected("moment_passed", message, status=409, place=f"strand {strand}", cure="pause it first")
        return Moment(position, reader)


@contextlib.contextmanager
def _closed_on_error(reader: Reader) -> Iterator[Reader]:
    try:
        yield reader
    except BaseException:
        reader.close()
        raise
