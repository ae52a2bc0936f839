"""The fence before an embedded ledger: a gate in its process.

Guarantee: a block is written only under a permit that runs when the journal's append begins, and it is *acknowledged*
only if the same permit still ran after the append had ended. A process that was stopped in between (SIGSTOP, a
suspended machine) therefore may have written a block too late, but nobody hears that it was done. When ``close`` has
returned, no append is under way and none will be.

The gate is closed until somebody opens it. Nothing of it is durable, which is the safe side: a process that starts has
no permit. The clock counts the time that the machine was suspended. Non-goal: choosing who is primary.

The asynchronous half is ``Fence``'s, for whoever holds the lease; the other half is for the ledger, and any thread may
call it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import trio

from replicator.cluster.fencing.base import Anchor, FenceView
from replicator.errors import Halted, NotPrimary, Unavailable

CLOSE_SECONDS = 10.0  # so long an append under way is waited for
PLACE = "the embedded ledger's gate"


def boottime() -> float:
    """Seconds of a clock that never steps and also counts suspension."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class _GateState(NamedTuple):
    """What the gate allows, replaced as a whole: threads read it without a lock."""

    open: bool
    epoch: int
    until: float
    primary: str | None = None
    retry_after: int | None = None


class Gate:
    """The gate of one ledger. ``clock`` gives seconds and counts suspension."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._state = _GateState(False, 0, 0.0)
        self._appending = threading.Lock()
        self._opened = trio.Event()

    # -- for the holder of the lease

    async def install(self) -> None:
        """There is nothing to install: the gate is part of the ledger, and closed."""
        await trio.lowlevel.checkpoint()

    async def anchor(self) -> Anchor:
        """The moment of now."""
        await trio.lowlevel.checkpoint()
        return Anchor(repr(self._clock()))

    async def open(self, epoch: int, anchor: Anchor, seconds: float) -> None:
        """Open, or prolong, until ``seconds`` after the anchor. Raises Unavailable if that has passed, and Halted for
        an epoch older than one before."""
        await trio.lowlevel.checkpoint()
        before = self._state
        if epoch < before.epoch:
            message = f"a permit of epoch {epoch} came behind one of epoch {before.epoch}"
            raise Halted("fence_epoch", message, place=PLACE, cure="see which region is primary")
        until = float(anchor.at) + seconds
        if until <= self._clock():
            message = f"the answer came {self._clock() - until:.1f} s after the permit that it gives had ended"
            raise Unavailable("fence_late", message, place=PLACE, cure="the next renewal opens it")
        if before.open and before.epoch == epoch:
            until = max(until, before.until)  # answers of a lease store may overtake each other
        self._state = _GateState(True, epoch, until)
        self._opened.set()

    async def close(self, primary_url: str | None, *, retry_after: int | None = None) -> None:
        """Close, and wait for the append under way. Raises Unavailable if it does not end in time: it stays closed.

        In a planned move (``retry_after``) permits run to their end: what was appended under one is there for whoever
        leads next, and may be answered. Otherwise they end now, for somebody else may lead already.
        """
        # Replaced before the append under way is waited for: one that begins meanwhile finds it closed.
        before = self._state
        until = before.until if retry_after is not None else min(before.until, self._clock())
        self._state = _GateState(False, before.epoch, until, primary_url, retry_after)
        if self._opened.is_set():
            self._opened = trio.Event()
        if not await trio.to_thread.run_sync(self._wait_for_append):
            message = f"a commit has been under way for {CLOSE_SECONDS:.0f} s"
            raise Unavailable("fence_append", message, place=PLACE, cure="look at the disk; close it again")

    async def look(self) -> FenceView:
        """The gate as it is now, by its own clock: open only while a permit runs."""
        await trio.lowlevel.checkpoint()
        state = self._state
        left = state.until - self._clock()
        if not state.open:
            return FenceView(False, state.epoch, "closed")
        detail = f"open for {left:.1f} s more" if left > 0 else f"the permit ended {-left:.1f} s ago"
        return FenceView(left > 0, state.epoch, detail)

    async def remove(self) -> None:
        """Nothing remains of it behind the process; this one stays closed. A ledger without failover is one that is
        started without a gate."""
        await self.close(None)

    def _wait_for_append(self) -> bool:
        if not self._appending.acquire(timeout=CLOSE_SECONDS):
            return False
        self._appending.release()
        return True

    # -- for the ledger

    async def opened(self) -> None:
        """Return when it is open. It may be closed again by then."""
        while not self._state.open:
            await self._opened.wait()
        await trio.lowlevel.checkpoint()

    def permit(self) -> int:
        """The epoch in which may be written now. Raises NotPrimary."""
        state = self._state  # read once: another thread may replace it between two looks
        if state.open and self._clock() < state.until:
            return state.epoch
        raise _refusal(state)

    def holds(self, epoch: int) -> bool:
        """Whether a permit that was given in this epoch still runs."""
        return self.left_seconds(epoch) > 0

    def left_seconds(self, epoch: int) -> float:
        """For how long it will hold if it is not prolonged."""
        state = self._state
        return state.until - self._clock() if state.epoch == epoch else 0.0

    @property
    def appends(self) -> bool:
        """Whether an append is under way."""
        return self._appending.locked()

    @contextlib.contextmanager
    def appending(self) -> Iterator[int]:
        """Within, the journal is appended to, in the epoch that is given; ``close`` waits for the end. Raises
        NotPrimary."""
        with self._appending:
            # Asked for within the lock: ``close`` has replaced the state before it waits for the lock, so an append
            # either finds it closed or is waited for.
            yield self.permit()


def _refusal(state: _GateState) -> NotPrimary:
    if state.retry_after is not None:
        return NotPrimary(
            "the ledger moves to another region at this moment",
            state.primary,
            status=503,
            retry_after=state.retry_after,
        )
    ended = " any more" if state.epoch else ""
    return NotPrimary(f"this region does not hold the right to write{ended}", state.primary)
