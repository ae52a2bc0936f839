"""What a fence promises, whatever the ledger is.

Closed is the default: a ledger takes the applications' writes only while it is told to, again and again, and each time
until a moment that is fixed. Nobody has to act for it to be closed.

That moment is counted from an anchor, which the ledger's own clock gives *before* the lease is asked for: however long
the answer takes, and wherever the sidecar is stopped in between, the fence is never open for longer than the lease.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Anchor(NamedTuple):
    """A moment by the clock that the fence goes by: the server's for PostgreSQL, the process's for the embedded ledger.
    Opaque: only the fence that gave it can read ``at``."""

    at: str


class FenceView(NamedTuple):
    """A fence as it is. ``epoch`` is the one that it was last opened for; ``detail`` says more, for people."""

    open: bool
    epoch: int
    detail: str


class Fence(Protocol):
    """A ledger's fence. Each call takes a bounded time; it raises Unavailable, or Halted for what no waiting
    cures."""

    async def install(self) -> None:
        """Set up everything that is needed, and what came since: closed, unless it is open. May be repeated."""

    async def anchor(self) -> Anchor:
        """Now; to be asked for before the lease is claimed or renewed."""

    async def open(self, epoch: int, anchor: Anchor, seconds: float) -> None:
        """Let applications write, or go on writing, until ``seconds`` after the anchor. Refused once that has passed,
        and for an older epoch than the fence knows. A moment is never taken back by an earlier one."""

    async def close(self, primary_url: str | None, *, retry_after: int | None = None) -> None:
        """Returns when no application can write any more and none of their transactions is in progress.

        Refused writers are told ``primary_url`` (None: it is being moved, or not known) and to come again after
        ``retry_after`` seconds. When it raises, applications may still write, or a transaction may still end."""

    async def look(self) -> FenceView:
        """The fence as it is."""

    async def remove(self) -> None:
        """Take away everything that was installed: applications may write, whoever is primary."""
