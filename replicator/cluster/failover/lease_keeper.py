"""This region's right to write: its lease, and the fence that is open for no longer than the lease can last.

Guarantee: the fence is opened, and prolonged, only until the grant's usable end, counted from an anchor that was taken
before the lease store was asked. Whatever happens to this process afterwards, the fence closes by itself.

A ledger that gives no anchor (a database that is down) is not renewed for: its lease ends, and another region may lead.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import trio

from replicator.cluster.fencing.base import Anchor, Fence
from replicator.cluster.leases.base import Clock, Grant, Holder, Lease, LeaseLost, LeaseView, usable_until
from replicator.errors import ReplicatorError

FENCE_SECONDS_AT_MOST = 86_400.0  # for a lease that does not end: the fence is prolonged again and again
RETRY_SECONDS = 0.2
FIND_SECONDS = 5.0
LOOKS_A_TTL = 20  # how often the store is looked at within a lease's time
LOOK_SECONDS_AT_LEAST, LOOK_SECONDS_AT_MOST = 0.1, 0.5

log = logging.getLogger("replicator")


class LeaseKeeper:
    """Holds, or watches, the lease of one strand. ``on_changed`` hears of whatever may change a decision."""

    def __init__(
        self,
        lease: Lease,
        fence: Fence,
        region: str,
        clock: Clock,
        clock_error: float,
        margin_seconds: float,
        on_changed: Callable[[], None],
    ) -> None:
        self.lease, self.fence = lease, fence
        self.view: LeaseView | None = None
        self.trouble: ReplicatorError | None = None
        self.grant: Grant | None = None
        self._region, self._clock = region, clock
        self._clock_error, self._margin = clock_error, margin_seconds
        self._on_changed = on_changed
        self._anchor: Anchor | None = None
        self._open_until = -math.inf
        self._opened: int | None = None  # the epoch in which it was decided to open: renewals prolong nothing else
        self._asking = trio.Lock()

    @property
    def usable_until(self) -> float | None:
        """Up to when this region may act as the holder; None: it holds nothing."""
        return None if self.grant is None else usable_until(self.grant, self._clock_error, self._margin)

    @property
    def remaining_seconds(self) -> float | None:
        """For how long it may act so yet."""
        until = self.usable_until
        return None if until is None or math.isinf(until) else max(until - self._clock(), 0.0)

    @property
    def is_open(self) -> bool:
        """Whether applications may be writing now."""
        return self._clock() < self._open_until

    # -- running

    async def watch(self) -> None:
        """Look at the lease, for ever."""
        ttl = min(self.lease.ttl_seconds, FENCE_SECONDS_AT_MOST)
        every = min(max(ttl / LOOKS_A_TTL, LOOK_SECONDS_AT_LEAST), LOOK_SECONDS_AT_MOST)
        while True:
            await self.look()
            await trio.sleep(every)

    async def hold(self) -> None:
        """Renew what is held three times within its time, for ever."""
        every = min(self.lease.ttl_seconds / 3, 10.0)
        while True:
            if self.grant is None:
                await trio.sleep(RETRY_SECONDS)
                continue
            renewed = await self._renew()
            await trio.sleep(every if renewed else RETRY_SECONDS)

    async def look(self) -> None:
        """Look at the lease now."""
        before = self.view
        try:
            self.view = await self.lease.look()
            self.trouble = None
        except ReplicatorError as error:
            self.view = None
            self._troubled(error)
        if self.view != before:
            self._on_changed()

    async def _renew(self) -> bool:
        async with self._asking:
            grant = self.grant
            if grant is None:
                return False
            try:
                anchor = await self.fence.anchor()
                renewed = await self.lease.renew(grant)
                if self.grant is not grant:  # it was let go of meanwhile
                    return False
                self.grant, self._anchor = renewed, anchor
                if self._opened == renewed.epoch:
                    await self._open(renewed.epoch)
            except LeaseLost as lost:
                log.error("the lease is lost: %s", lost)
                self.grant, self.view = None, lost.view
            except ReplicatorError as error:
                self._troubled(error)
                return False
            finally:
                self._on_changed()
        return self.grant is not None

    async def find_fence(self) -> None:
        """Set the fence up, and find out whether a process before this one has left it open; it closes by itself then,
        or is closed. Where that cannot be told it counts as open for as long as it could be."""
        self._open_until = self._clock() + min(self.lease.ttl_seconds, FENCE_SECONDS_AT_MOST)
        try:
            with trio.fail_after(FIND_SECONDS):
                await self.fence.install()
                if not (await self.fence.look()).open:
                    self._open_until = -math.inf
        except (ReplicatorError, trio.TooSlowError) as error:
            log.warning("how the fence stands is not known yet: %s", error)

    # -- what is decided

    async def claim(self, epoch: int, instead_of: Holder | None) -> None:
        """Ask for the lease. Raises Unavailable; a claim that is refused changes the view."""
        async with self._asking:
            try:
                anchor = await self.fence.anchor()
                self.grant = await self.lease.claim(self._region, epoch, instead_of)
                self._anchor = anchor
                self.view = LeaseView(self.grant.holder, epoch)
            except LeaseLost as lost:
                log.info("the lease was not given: %s", lost)
                self.view = lost.view

    async def keep_mine(self) -> bool:
        """Make a claim in our place impossible; whether the lease is still ours. Raises Unavailable."""
        async with self._asking:
            if self.grant is None:
                return False
            try:
                self.grant = await self.lease.keep_mine(self.grant)
                self.view = LeaseView(self.grant.holder, self.grant.epoch)
            except LeaseLost as lost:
                self.grant, self.view = None, lost.view
            return self.grant is not None

    def forget(self) -> None:
        """The lease is another region's by now, as was meant."""
        self.grant = None

    async def release(self) -> None:
        """Give the lease back. Raises Unavailable; this region does not act on it any more in any case."""
        async with self._asking:
            grant, self.grant = self.grant, None
            if grant is not None:
                await self.lease.release(grant)
        await self.look()

    async def open(self, epoch: int) -> None:
        """Open the fence for as long as the lease is usable. Raises Unavailable or Halted."""
        async with self._asking:
            self._opened = epoch
            await self._open(epoch)

    async def _open(self, epoch: int) -> None:
        if self.grant is None or self._anchor is None or self.grant.epoch != epoch:
            return
        until = usable_until(self.grant, self._clock_error, self._margin)
        seconds = min(until - self.grant.asked_at, FENCE_SECONDS_AT_MOST)
        self._open_until = max(self._open_until, self.grant.asked_at + seconds)
        await self.fence.open(epoch, self._anchor, seconds)

    async def close(self, primary_url: str | None, *, retry_after: int | None) -> None:
        """Close the fence. When it raises, the fence is open until its time is over."""
        async with self._asking:
            self._opened = None
            await self.fence.close(primary_url, retry_after=retry_after)
            self._open_until = -math.inf

    def _troubled(self, error: ReplicatorError) -> None:
        if str(error) != str(self.trouble):
            log.warning("lease: %s", error)
        self.trouble = error
