"""Doing what was decided.

Guarantee: an action that fails is shown, and decided anew; each may be repeated, and cut off anywhere. Whatever changes
the memory makes it durable before it goes on.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import trio

from replicator.cluster.decisions.model import (
    Action,
    AskPromises,
    ClaimLease,
    CloseFence,
    FetchBlocks,
    FollowRegion,
    HandOver,
    KeepLease,
    OpenFence,
    Promote,
    ReleaseLease,
    ReportIntent,
    RewindToFork,
    SealOrphans,
    VerifyApplied,
)
from replicator.cluster.decisions.orders import take_over
from replicator.cluster.failover.complaints import Complaints
from replicator.cluster.failover.membership import Membership
from replicator.cluster.leases.base import Holder, boot_seconds, is_held_by
from replicator.cluster.promotion.epoch_block import append_epoch
from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.supervise import first_cause

ACTION_SECONDS = 60.0
RETRY_SECONDS = 0.2
BRIEF_SECONDS = 0.025
INTENT_SECONDS = 0.1
MOVING_RETRY_AFTER_SECONDS = 1

log = logging.getLogger("replicator")


class Executor:
    """Does what was decided for one region."""

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._reported_intent = ""
        self._offered: Holder | None = None
        self._complaints = Complaints(member.rules.me, log)

    async def do(self, action: Action) -> None:
        """Do it, or show why it could not be done."""
        member = self._member
        try:
            with trio.fail_after(ACTION_SECONDS):
                member.probe(f"before {type(action).__name__}")
                await self._act(action)
                member.probe(f"after {type(action).__name__}")
            self._complaints.over(type(action).__name__)
        # Steps run nurseries, so what they raise comes in groups.
        except* (ReplicatorError, trio.TooSlowError) as group:
            leaves = group.subgroup(ReplicatorError)
            error = first_cause(leaves) if leaves is not None else None
            member.why = f"{type(action).__name__}: {error or 'not done in time'}"
            self._complaints.about(type(action).__name__, member.why)
            # Elsewhere the next decision finds another way; on the way back there is none but a person's.
            if isinstance(error, Halted) and isinstance(action, SealOrphans | RewindToFork):
                member.rejoin.stuck = str(error)
            await trio.sleep(RETRY_SECONDS)

    async def _act(self, action: Action) -> None:
        member, lease = self._member, self._member.lease
        match action:
            case FollowRegion(region):
                await self._follow(region)
            case FetchBlocks(region):
                await self._follow(region)
                await self._pause_briefly()
            case ClaimLease(epoch, instead_of):
                await lease.claim(epoch, instead_of)
                if lease.grant is not None:  # on disk, a restarted sidecar can take it up again
                    await self._keep()
            case AskPromises(epoch):
                await member.peers.promise(epoch)
                member.asked_epoch = epoch
            case VerifyApplied():
                if member.region.flow.replica is not None:
                    member.region.flow.replica.verify_now()
                await self._pause_briefly()
            case Promote(epoch):
                await self._promote(epoch)
            case OpenFence(epoch):
                await lease.open(epoch)
            case CloseFence(moving):
                retry_after = MOVING_RETRY_AFTER_SECONDS if moving else None
                await lease.close(None if moving else member.primary_url(), retry_after=retry_after)
            case HandOver(target, sequence):
                await self._hand_over(target, sequence)
            case KeepLease():
                if await lease.keep_mine():
                    await self._keep(reopening=True)
            case ReleaseLease():
                await lease.release()
            case SealOrphans(region):
                await self._seal(region)
            case RewindToFork():
                await member.region.flow.stop()
                await member.rejoin.rewind(was_primary=member.memory.half == "primary", named=member.memory.undo)
                member.region.look_again()
            case ReportIntent(text):
                await self._report_intent(text)

    async def _keep(self, **changes: Any) -> None:
        """Make the durable state with these changes, and the grant, durable."""
        member = self._member
        async with member.deciding:
            await member.keep(dataclasses.replace(member.memory, **changes))

    async def _pause_briefly(self) -> None:
        changed = self._member.changed
        with trio.move_on_after(BRIEF_SECONDS):
            await changed.wait()

    async def _follow(self, region: str | None) -> None:
        url = None if region is None else self._member.url_of(region)
        await self._member.session.follow(region, url, self._member.memory.epoch)

    async def _promote(self, epoch: int) -> None:
        """Set the ledger up as a primary's. What is durable says how far that has come; each step may be repeated."""
        member, region = self._member, self._member.region
        await region.flow.stop()
        if member.memory.half == "replica":
            await region.adapter.promote(epoch, planned=member.memory.closed_at is not None)
            # What could not settle lies behind a gap of the old epoch, which this chain goes on without.
            await trio.to_thread.run_sync(_discard_spool, region.data_dir.spool)
        # A ledger in PostgreSQL has done so itself; for the embedded one it is done here. Twice changes nothing.
        await trio.to_thread.run_sync(append_epoch, region.journal, region.strand, epoch, time.time_ns() // 1000)
        region.look_again()
        await self._keep(half="primary", led=epoch)  # last: whoever is killed before this promotes again
        member.ensure_flow()

    async def _hand_over(self, target: str, sequence: int) -> None:
        member = self._member
        take = take_over(member.order, member.lease_view(), member.rules.me, target, sequence)
        if take is None:
            return
        if self._offered == take.instead_of:  # it knows: the lease shows what comes of it
            await member.lease.look()
            await self._pause_briefly()
            return
        await member.peers.tell(target, take, take.until - boot_seconds())
        self._offered = take.instead_of

    async def _seal(self, region: str) -> None:
        """A region that leads no more by the end may itself have been rewound: its chain proves nothing then."""
        member = self._member
        await member.region.flow.stop()
        await member.rejoin.seal(member.url_of(region), was_primary=member.memory.half == "primary")
        await member.lease.look()
        if not is_held_by(member.lease_view(), region):
            member.rejoin.begin()
            raise Unavailable("leader_changed", f"{region} does not lead any more", place=member.rules.me)
        await member.count_orphans()

    async def _report_intent(self, text: str) -> None:
        if text != self._reported_intent:
            self._reported_intent = text
            log.warning("shadow: %s", text)
            await self._member.note("shadow", text)
        await trio.sleep(INTENT_SECONDS)


def _discard_spool(path: Path) -> None:
    """Remove the spool's files; nobody has them open. May be repeated. Raises Unavailable."""
    try:
        for suffix in ("-shm", "-wal", ""):  # the file itself last: without it the others are nothing
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        cure = "mend the disk or the directory's rights; it goes on by itself"
        raise Unavailable("cannot_write", error.strerror or "", place=str(path), cure=cure) from error
