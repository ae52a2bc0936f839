"""This region's right to write: its lease, and the fence that is open for no longer than the lease can last.

Guarantee: the fence is opened, and prolonged, only until the grant's usable end, counted from an anchor that was taken
before the lease store was asked. Whatever happens to this process afterwards, the fence closes by itself.

A ledger that gives no anchor (a database that is down) is not renewed for: its lease ends, and another region may lead.
Until it gives one again this region says that it is ``unable``, and stands for nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable

import trio

from replicator.cluster.decisions.held_lease import FENCE_SECONDS_AT_MOST, HeldLease
from replicator.cluster.failover.complaints import Complaints
from replicator.cluster.fencing.base import Anchor, Fence
from replicator.cluster.leases.base import Clock, Grant, Holder, Lease, LeaseLost, LeaseView
from replicator.errors import ReplicatorError

RETRY_SECONDS = 0.2
LEDGER_SECONDS = 2.0  # between two looks of a region that does not lead at whether its ledger could be opened
FIND_SECONDS = 5.0
CHECK_SECONDS, CHECK_AGAIN_SECONDS = 5.0, 1.0  # between two looks at whether the store could grant a claim
LOOKS_A_TTL = 20  # how often the store is looked at within a lease's time
LOOK_SECONDS_AT_LEAST, LOOK_SECONDS_AT_MOST = 0.1, 0.5

log = logging.getLogger("replicator")


def look_seconds(ttl_seconds: float) -> float:
    """How long it is between two looks at a store whose leases last so long."""
    ttl = min(ttl_seconds, FENCE_SECONDS_AT_MOST)
    return min(max(ttl / LOOKS_A_TTL, LOOK_SECONDS_AT_LEAST), LOOK_SECONDS_AT_MOST)


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
        self.unable: ReplicatorError | None = None
        self.unclaimable: ReplicatorError | None = None  # why the store, which answers, would grant nobody the lease
        self._check_at = -math.inf
        self._unseen: ReplicatorError | None = None
        self._complaints = Complaints("lease", log)
        self._region, self._clock = region, clock
        self._seen_since = clock()
        self._held = HeldLease(clock_error, margin_seconds)
        self._on_changed = on_changed
        self._anchor: Anchor | None = None
        self._asking = trio.Lock()

    @property
    def grant(self) -> Grant | None:
        """What this region holds."""
        return self._held.grant

    @property
    def usable_until(self) -> float | None:
        """Up to when this region may act as the holder; None: it holds nothing."""
        return self._held.usable_until

    @property
    def remaining_seconds(self) -> float | None:
        """For how long it may act so yet."""
        until = self.usable_until
        return None if until is None or math.isinf(until) else max(until - self._clock(), 0.0)

    @property
    def seen_seconds(self) -> float:
        """For how long the store has been answering."""
        return 0.0 if self.view is None else self._clock() - self._seen_since

    @property
    def trouble(self) -> ReplicatorError | None:
        """What is wrong with the lease store, or keeps the ledger from being opened under the lease."""
        return self._unseen or self.unclaimable or self.unable

    @property
    def is_open(self) -> bool:
        """Whether applications may be writing now."""
        return self._clock() < self._held.open_until

    # -- running

    async def watch(self) -> None:
        """Look at the lease, for ever."""
        every = look_seconds(self.lease.ttl_seconds)
        while True:
            await self.look()
            await self._check()
            await trio.sleep(every)

    async def hold(self) -> None:
        """Renew what is held three times within its time, for ever."""
        # A lease by hand does not end, but the fence that is open under it does: it is prolonged.
        every = min(self.lease.ttl_seconds / 3, 10.0)
        while True:
            if self.grant is None:
                # Also while nothing is replayed: a region says that it could lead only on the word of its ledger.
                await trio.sleep(RETRY_SECONDS if self.unable is not None else LEDGER_SECONDS)
                if self.grant is None:
                    await self._try_ledger()
                continue
            renewed = await self._renew()
            await trio.sleep(every if renewed else RETRY_SECONDS)

    async def look(self) -> None:
        """Look at the lease now."""
        before = self.view
        try:
            self.view = await self.lease.look()
            if before is None:
                self._seen_since = self._clock()
            self._unseen = None
            self._complaints.over("the lease store")
        except ReplicatorError as error:
            self.view, self._unseen = None, error
            self._complaints.about("the lease store", error)
        if self.view != before:
            self._on_changed()

    async def _check(self) -> None:
        """Now and then, whether anybody could claim the lease: a store that is full answers and renews all the same."""
        if self.view is None or self._clock() < self._check_at:
            return
        before = self.unclaimable
        try:
            await self.lease.check()
            self.unclaimable = None
            self._complaints.over("a claim")
        except ReplicatorError as error:
            self.unclaimable = error
            self._complaints.about("a claim", error)
        self._check_at = self._clock() + (CHECK_SECONDS if self.unclaimable is None else CHECK_AGAIN_SECONDS)
        if (before is None) is not (self.unclaimable is None):
            self._on_changed()

    async def _renew(self) -> bool:
        async with self._asking:
            grant = self.grant
            if grant is None:
                return False
            try:
                anchor = await self._take_anchor()
                renewed = await self.lease.renew(grant)
                if not self._held.renew(grant, renewed):
                    return False
                # Changed only with the grant that it was taken for: one that is younger than its grant would keep the
                # fence open beyond the lease.
                self._anchor = anchor
                await self._move_fence(self._held.prolong())
            except LeaseLost as lost:
                log.error("the lease is lost: %s", lost)
                self._held.grant, self.view = None, lost.view
            except ReplicatorError as error:
                if error is not self.unable:  # which has been said
                    self._complaints.about("the renewal", error)
                return False
            finally:
                self._on_changed()
        self._complaints.over("the renewal")
        return self.grant is not None

    async def _take_anchor(self) -> Anchor:
        """An anchor, which proves that the ledger could be opened. Raises Unavailable or Halted."""
        try:
            anchor = await self.fence.anchor()
        except ReplicatorError as error:
            self.unable = error
            self._complaints.about("the ledger", error)
            raise
        self.unable = None
        self._complaints.over("the ledger")
        return anchor

    async def _try_ledger(self) -> None:
        """Whether the ledger could be opened again."""
        async with self._asking:
            with contextlib.suppress(ReplicatorError):
                await self._take_anchor()
                self._on_changed()

    async def find_fence(self) -> None:
        """Set the fence up, and find out whether a process before this one has left it open; it closes by itself then,
        or is closed. Where that cannot be told it counts as open for as long as it could be."""
        self._held.open_until = self._clock() + min(self.lease.ttl_seconds, FENCE_SECONDS_AT_MOST)
        try:
            with trio.fail_after(FIND_SECONDS):
                await self.fence.install()
                if not (await self.fence.look()).open:
                    self._held.closed()
        except (ReplicatorError, trio.TooSlowError) as error:
            log.warning("how the fence stands is not known yet: %s", error)

    # -- what is decided

    async def claim(self, epoch: int, instead_of: Holder | None) -> None:
        """Ask for the lease. Raises Unavailable; a claim that is refused changes the view."""
        async with self._asking:
            try:
                anchor = await self._take_anchor()
                grant = await self.lease.claim(self._region, epoch, instead_of)
                self._held.grant, self._anchor = grant, anchor
                self.view = LeaseView(grant.holder, epoch)
            except LeaseLost as lost:
                log.info("the lease was not given: %s", lost)
                self.view = lost.view

    async def keep_mine(self) -> bool:
        """Make a claim in our place impossible; whether the lease is still ours. Raises Unavailable."""
        async with self._asking:
            if self.grant is None:
                return False
            try:
                grant = await self.lease.keep_mine(self.grant)
                self._held.grant, self.view = grant, LeaseView(grant.holder, grant.epoch)
            except LeaseLost as lost:
                self._held.grant, self.view = None, lost.view
            return self.grant is not None

    def resume(self, grant: Grant | None) -> None:
        """Begin with what an earlier process held: it counts once the store has renewed it."""
        self._held.grant = grant

    def forget(self) -> None:
        """The lease is another region's by now, as was meant."""
        self._held.grant = None

    async def release(self) -> None:
        """Give the lease back. Raises Unavailable; this region does not act on it any more in any case."""
        async with self._asking:
            grant, self._held.grant = self.grant, None  # at once: a store may do it and not say so
            if grant is not None:
                await self.lease.release(grant)
        await self.look()

    async def open(self, epoch: int) -> None:
        """Open the fence for as long as the lease is usable. Raises Unavailable or Halted."""
        async with self._asking:
            await self._move_fence(self._held.open(epoch))

    async def _move_fence(self, seconds: float | None) -> None:
        """Open the fence, or prolong it; None leaves it as it is."""
        if seconds is not None:
            assert self.grant is not None
            assert self._anchor is not None, "a grant is proven only by an answer, for which an anchor was taken before"
            await self.fence.open(self.grant.epoch, self._anchor, seconds)

    async def close(self, primary_url: str | None, *, retry_after: int | None) -> None:
        """Close the fence. When it raises, the fence is open until its time is over."""
        async with self._asking:
            self._held.begin_closing()  # also where closing fails: from now on no renewal prolongs it
            await self.fence.close(primary_url, retry_after=retry_after)
            self._held.closed()
