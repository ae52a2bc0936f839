"""What a region holds of its lease, and for how long its fence may be open because of it. Pure.

Guarantee: the fence is given no longer than the grant's usable end, counted from an anchor that was taken before the
lease store was asked, and only in the epoch in which it was decided to open. A renewal prolongs what is open; it opens
nothing that was closed, and nothing in another epoch.

The readings are those of the clock by which the grants were asked for. Who asks the store and moves the fence is
``LeaseKeeper``, or the simulation.
"""

from __future__ import annotations

import math

from replicator.cluster.leases.base import NEVER, Grant, usable_until

FENCE_SECONDS_AT_MOST = 86_400.0  # for a lease that does not end: the fence is prolonged again and again


class HeldLease:
    """The grant of one region, if it has one, and the latest reading at which its fence may still be open."""

    def __init__(self, clock_error: float, margin_seconds: float) -> None:
        self.grant: Grant | None = None
        self.open_until = -math.inf
        self._clock_error, self._margin_seconds = clock_error, margin_seconds
        self._opened_epoch: int | None = None

    @property
    def usable_until(self) -> float | None:
        """Up to when this region may act as the holder; None: it holds nothing."""
        return None if self.grant is None else usable_until(self.grant, self._clock_error, self._margin_seconds)

    def renew(self, asked: Grant, renewed: Grant) -> bool:
        """Take the store's answer to the renewal of ``asked``. False, and nothing changes, if that was let go of
        while the store was asked."""
        if self.grant is not asked:
            return False
        self.grant = renewed
        return True

    def open(self, epoch: int) -> float | None:
        """It is decided to open the fence in ``epoch``; see ``prolong``."""
        self._opened_epoch = epoch
        return self.prolong()

    def prolong(self) -> float | None:
        """How many seconds after the grant's anchor the fence is to be open; None: it is to be left as it is."""
        grant = self.grant
        if grant is None or grant.epoch != self._opened_epoch or grant.asked_at == NEVER:
            return None
        until = usable_until(grant, self._clock_error, self._margin_seconds)
        seconds = min(until - grant.asked_at, FENCE_SECONDS_AT_MOST)
        self.open_until = max(self.open_until, grant.asked_at + seconds)
        return seconds

    def begin_closing(self) -> None:
        """It is decided to close the fence: no renewal prolongs it any more."""
        self._opened_epoch = None

    def closed(self) -> None:
        """The fence says that it is closed."""
        self.open_until = -math.inf
