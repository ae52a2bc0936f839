"""What a fence is: it stands before a ledger and lets applications write for a limited time, in one epoch.

Guarantee that every fence owes: without a permit that still runs, no application's transaction commits. A permit ends
by itself, whether or not its sidecar lives; when ``close`` has returned, nobody can write any more and no transaction
of theirs is in progress.

The time of a permit is counted from an *anchor*, which is taken before the lease is claimed or renewed: so the permit
never outlives the lease, however long the answer of the lease store was on its way. An anchor is a moment of the clock
by which the permit will be judged, so no two machines' clocks are compared.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Anchor(NamedTuple):
    """A moment that a permit's time is counted from.

    ``at`` is opaque: server time for PostgreSQL, the process' clock for the embedded ledger.
    """

    at: str


class FenceView(NamedTuple):
    """Whether applications may write now, in which epoch, and what there is to say of it."""

    open: bool
    epoch: int
    detail: str


class Fence(Protocol):
    """Stands before one ledger. Each call is bounded in time and raises Unavailable or Halted."""

    async def install(self) -> None:
        """Make sure that the fence is there, closed if it was not there before."""

    async def anchor(self) -> Anchor:
        """The moment of now, to be taken before a lease is claimed or renewed."""

    async def open(self, epoch: int, anchor: Anchor, seconds: float) -> None:
        """Open, or prolong, until ``seconds`` after the anchor. Raises Halted for an epoch that is older than one
        before."""

    async def close(self, primary_url: str | None, *, retry_after: int | None = None) -> None:
        """Close; returns when no application can write any more and none of their transactions is in progress.
        Writers hear who is the primary, or, with ``retry_after``, that they may come back in so many seconds."""

    async def look(self) -> FenceView:
        """How it stands."""

    async def remove(self) -> None:
        """Take away what ``install`` made."""
