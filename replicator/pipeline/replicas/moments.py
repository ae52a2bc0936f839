"""One exact moment of a region: a reader whose rows and position belong together.

Guarantee asked of every implementation: ``fix`` gives a reader that sees exactly the position it names; replication
goes on meanwhile, because the database's own snapshot keeps the moment. Copies and comparisons are made of moments.

Implementations: ``pipeline/replay/moments.py`` (a replica), ``pipeline/sources/postgres/moments.py`` (a PostgreSQL
primary) and ``ledger/moments.py`` (the embedded ledger).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from replicator.errors import Rejected
from replicator.format.position import Position, genesis
from replicator.pipeline.replicas.base import Reader


class Moment(NamedTuple):
    """A position, and a reader that sees exactly it until the reader is closed."""

    position: Position
    reader: Reader


class Moments(Protocol):
    """Gives a region's moments; for the trio thread."""

    async def pause(self, seconds: float) -> Position:
        """Stop moving for at most so many seconds, if this region follows another one; gives where it stands."""

    def release(self) -> None:
        """End the pause."""

    async def fix(self, at: int | None) -> Moment:
        """The moment at a sequence, or now. Raises Rejected (``moment_passed``, ``not_reached``)."""


def fix_moment(open_reader: Callable[[], Reader], strand: str, at: int | None) -> Moment:
    """The moment that a new reader sees, where the database itself keeps the position beside the rows. Blocks.

    Raises Rejected (``moment_passed``) if that is not at the sequence ``at``.
    """
    reader = open_reader()
    try:
        reader.snapshot()  # before the position is read: else rows of a later commit could stand beside it
        applied = reader.applied(strand)
        position = applied.position if applied else genesis(strand)
        if at is not None and position.sequence != at:
            message = f"the region is at sequence {position.sequence}, not at {at}"
            raise Rejected("moment_passed", message, status=409, place=f"strand {strand}", cure="pause it first")
        return Moment(position, reader)
    except BaseException:
        reader.close()
        raise
