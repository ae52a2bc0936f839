"""The right to write, as the embedded ledger asks for it.

Guarantee: nothing is judged, written or answered without a permit. It is looked at when a request is taken, right
before the journal is appended to, and again after that, before any answer: who was stopped in between may have written
too late, and then says that the outcome is not known. ``fencing.embedded.Gate`` is such a right that ends;
``Unfenced`` one that does not, for a region without failover.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Protocol

import trio


class Permits(Protocol):
    """Who gives the right to write. Any thread may call; ``opened`` is trio's."""

    async def opened(self) -> None:
        """Return when there is a permit; it may have ended by then."""

    def permit(self) -> int:
        """The epoch in which may be written now. Raises NotPrimary."""

    def holds(self, epoch: int) -> bool:
        """Whether the permit of this epoch still runs."""

    def left_seconds(self, epoch: int) -> float:
        """For how long it will hold if it is not prolonged."""

    def appending(self) -> contextlib.AbstractContextManager[int]:
        """Within, the journal is appended to, in the epoch that is given. Raises NotPrimary."""


class Unfenced:
    """Writes are always taken, in the epoch that the configuration names."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    async def opened(self) -> None:
        await trio.lowlevel.checkpoint()

    def permit(self) -> int:
        return self._epoch

    def holds(self, epoch: int) -> bool:
        return True

    def left_seconds(self, epoch: int) -> float:
        return math.inf

    @contextlib.contextmanager
    def appending(self) -> Iterator[int]:
        yield self._epoch
