"""Doing what was decided.

Guarantee: an action that fails is shown, and decided anew; each may be repeated, and cut off anywhere. Whatever changes
the memory makes it durable before it goes on.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING

import trio

from replicator.cluster.failover.discarding import discard_spool
from replicator.cluster.failover.durable_state import RoleTransition
from replicator.cluster.failover.model import (
    Action,
    AskPromises,
    ClaimLease,
    CloseFence,
    FetchBlocks,
    FollowRegion,
    HandOver,
    KeepLease,
    OpenFence,
    Order,
    Promote,
    ReleaseLease,
    ReportIntent,
    RewindToFork,
    SealOrphans,
    VerifyApplied,
)
from replicator.cluster.leases.base import Holder, boot_seconds
from replicator.cluster.promotion.base import append_epoch
from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.runtime.roles.replica import ReplicaPipeline
from replicator.supervise import first_cause

if TYPE_CHECKING:
    from replicator.cluster.failover.controller import Controller

ACTION_SECONDS = 60.0
RETRY_SECONDS = 0.2
BRIEF_SECONDS = 0.025
TELL_SECONDS = 0.1
MOVING_RETRY_AFTER_SECONDS = 1

log = logging.getLogger("replicator")


class Executor:
    """Does the actions of one office. ``asked`` is the epoch that every peer was last asked to promise."""

    def __init__(self, office: Controller) -> None:
        self.asked = 0
        self._office = office
        self._told = ""
        self._handed: Holder | None = None

    async def do(self, action: Action) -> None:
        """Do it, or show why it could not be done."""
        office = self._office
        try:
            with trio.fail_after(ACTION_SECONDS):
                office.probe(f"before {type(action).__name__}")
                await self._act(action)
                office.probe(f"after {type(action).__name__}")
        except* (ReplicatorError, trio.TooSlowError) as group:
            leaves = group.subgroup(ReplicatorError)
            error = first_cause(leaves) if leaves is not None else None
            office.why = f"{type(action).__name__}: {error or 'not done in time'}"
            log.warning("%s", office.why)
            if isinstance(error, Halted) and isinstance(action, SealOrphans | RewindToFork):
                office.returning.stuck = str(error)
            await trio.sleep(RETRY_SECONDS)

    async def _act(self, action: Action) -> None:
        office, term = self._office, self._office.term
        match action:
            case FollowRegion(region):
                await self._follow(region)
            case FetchBlocks(region):
                await self._follow(region)
                await self._pause_briefly()
            case ClaimLease(epoch, instead_of):
                await term.claim(epoch, instead_of)
                if term.grant is not None:
                    await self._keep_grant()
            case AskPromises(epoch):
                await office.peers.promise(epoch)
                self.asked = epoch
            case VerifyApplied():
                if isinstance(office.running.half, ReplicaPipeline):
                    office.running.half.watching.prove()
                await self._pause_briefly()
            case Promote(epoch):
                await self._promote(epoch)
            case OpenFence(epoch):
                await term.open(epoch)
            case CloseFence(moving):
                retry_after = MOVING_RETRY_AFTER_SECONDS if moving else None
                await term.close(None if moving else office.primary_url(), retry_after=retry_after)
            case HandOver(target, sequence):
                await self._hand_over(target, sequence)
            case KeepLease():
                if await term.keep_mine():
                    async with office.deciding:
                        await office.keep(dataclasses.replace(office.memory, reopening=True), None, "")
            case ReleaseLease():
                await term.release()
            case SealOrphans(region):
                await self._seal(region)
            case RewindToFork():
                await office.running.stop()
                await office.returning.rewind(was_primary=office.memory.half == "primary")
                office.core.look_again()
            case ReportIntent(text):
                await self._tell(text)

    async def _keep_grant(self) -> None:
        async with self._office.deciding:
            await self._office.keep(self._office.memory, None, "")

    async def _pause_briefly(self) -> None:
        changed = self._office.changed
        with trio.move_on_after(BRIEF_SECONDS):
            await changed.wait()

    async def _follow(self, region: str | None) -> None:
        url = None if region is None else self._office.url_of(region)
        await self._office.following.follow(region, url, self._office.memory.epoch)

    async def _promote(self, epoch: int) -> None:
        """Set the ledger up as a primary's. What is durable says how far that has come; each step may be repeated."""
        office, core = self._office, self._office.core
        await office.running.stop()
        if office.memory.half == "replica":
            await office.ledger.promote(epoch, planned=office.memory.closed_at is not None)
            await trio.to_thread.run_sync(discard_spool, core.config.region.spool_path)
        await trio.to_thread.run_sync(append_epoch, core.journal, core.strand, epoch, time.time_ns() // 1000)
        core.look_again()
        async with office.deciding:
            await office.keep(dataclasses.replace(office.memory, half="primary", led=epoch), None, "")
        office.ensure_half()

    async def _hand_over(self, target: str, sequence: int) -> None:
        office = self._office
        view, order = office.lease_view(), office.order
        if view is None or view.holder is None or view.holder.region != office.rules.me or order is None:
            return
        if self._handed == view.holder:  # it was told: the lease shows what comes of it
            await office.term.look()
            await self._pause_briefly()
            return
        take = Order("take", 0.0, target=target, instead_of=view.holder, sequence=sequence, reason=order.reason)
        await office.peers.tell(target, take, order.until - boot_seconds())
        self._handed = view.holder

    async def _seal(self, region: str) -> None:
        """A region that leads no more by the end may itself have been rewound: its chain proves nothing then."""
        office = self._office
        await office.running.stop()
        await office.returning.seal(office.url_of(region), was_primary=office.memory.half == "primary")
        await office.term.look()
        view = office.lease_view()
        if view is None or view.holder is None or view.holder.region != region:
            office.returning.begin()
            raise Unavailable("leader_changed", f"{region} does not lead any more", place=office.rules.me)
        await office.count_orphans()

    async def _tell(self, text: str) -> None:
        office, memory = self._office, self._office.memory
        if text != self._told:
            self._told = text
            log.warning("shadow: %s", text)
            office.totals["shadow"] += 1
            async with office.deciding:
                shadow = RoleTransition(time.time_ns() // 1000, "shadow", memory.state.value, memory.epoch, text)
                office.happened = (*office.happened, shadow)
                await office.keep(office.memory, None, "")
        await trio.sleep(TELL_SECONDS)
