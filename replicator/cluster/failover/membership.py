"""A region's part in its cluster, as it stands: its durable state, and the parts that a decision looks at and acts by.

Guarantee: a durable state is on disk before it is this region's state; whatever follows from it comes after.

Non-goals: deciding (``decide``), acting (``executor``), and the loop over both (``controller``).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

import trio

from replicator.cluster.decisions.manual_lease import view_of
from replicator.cluster.decisions.model import DurableState, FailoverRules, Order
from replicator.cluster.decisions.states import SETTLED, RoleEvent, RoleState
from replicator.cluster.failover.complaints import Complaints
from replicator.cluster.failover.durable_state import TRANSITIONS_LIMIT, DurableStateFile, RoleTransition, StoredState
from replicator.cluster.failover.feed_session import SessionKeeper
from replicator.cluster.failover.lease_keeper import LeaseKeeper
from replicator.cluster.failover.peers import Peers
from replicator.cluster.failover.region import Region
from replicator.cluster.failover.rejoin import RejoinProcedure
from replicator.cluster.leases.base import Lease, LeaseView, boot_seconds
from replicator.config.roles import in_role
from replicator.errors import ReplicatorError, Unavailable

RETRY_SECONDS = 0.2

log = logging.getLogger("replicator")


class Membership:
    """One region in its cluster.

    ``memory`` is the durable state, ``transitions`` the events of the past, ``order`` what an operator wants of this
    region now, ``why`` what its next step waits for, and ``unfit`` why its ledger could not be a primary's.
    ``deciding`` is held while the durable state is read and replaced. ``probe`` is called before and after everything
    that is done or kept: tests die there.
    """

    def __init__(
        self, region: Region, rules: FailoverRules, lease: Lease, probe: Callable[[str], None] = lambda step: None
    ) -> None:
        config = region.config
        assert config.cluster is not None
        assert config.lease is not None
        self.region, self.config, self.rules = region, config, rules
        self.lease = LeaseKeeper(
            lease,
            region.adapter.fence,
            rules.me,
            boot_seconds,
            config.lease.clock_error,
            config.lease.margin_seconds,
            self.look_again,
        )
        others = {name: url for name, url in config.cluster.regions.items() if name != rules.me}
        token = config.cluster.token.reveal() if config.cluster.token else None
        self.peers = Peers(others, token, config.cluster.ca, boot_seconds, self._is_urgent, self.look_again)
        self.rejoin = RejoinProcedure(region)
        self.session = SessionKeeper(region.flow)
        self.orphans = region.orphans(self._primary_or_own_url)
        self.memory = DurableState(RoleState.FOLLOWING, "replica")
        self.transitions: tuple[RoleTransition, ...] = ()
        self.totals: Counter[str] = Counter({event.name.lower(): 0 for event in RoleEvent})
        self.order: Order | None = None
        self.asked_epoch = 0  # the epoch that every peer was last asked to promise
        self.why = self.unfit = ""
        self.is_whole = False  # until the journal was looked at
        self._looked_at = -1  # where it ended then
        self.probe = probe
        self.began_at = self.since = boot_seconds()
        self.deciding = trio.Lock()
        self.changed = trio.Event()
        self._file = DurableStateFile(config.region.files.role)
        self._manual: LeaseView | None = None
        self._complaints = Complaints(rules.me, log)

    # -- what is durable

    async def restore(self, first: DurableState) -> None:
        """Take up what is on disk, or begin with ``first``. Raises Halted if the file cannot be read."""
        stored = await trio.to_thread.run_sync(self._file.read) or StoredState(first)
        self.memory, self.transitions = stored.memory, stored.transitions
        await self.look_for_first_copy()
        self.lease.resume(stored.grant)

    async def keep(self, memory: DurableState, event: RoleEvent | None = None, why: str = "") -> None:
        """Make a durable state this region's; until it is on disk, nothing else is done."""
        name = event.name.lower() if event else "memory"
        self.probe(f"before {name}")
        transitions = self.transitions
        if event is not None:
            wall_us = time.time_ns() // 1000
            transitions = (*transitions, RoleTransition(wall_us, name, memory.state.value, memory.epoch, why))
        transitions = transitions[-TRANSITIONS_LIMIT:]
        await self._write(StoredState(memory, self.lease.grant, transitions))
        if event is not None:
            log.warning("%s: %s → %s, epoch %d %s", self.rules.me, event.name, memory.state, memory.epoch, why)
            self.since = boot_seconds()
            self.totals[name] += 1
        self.memory, self.transitions = memory, transitions
        self.probe(f"after {name}")

    async def note(self, name: str, text: str) -> None:
        """Put into the history what changes no state."""
        self.totals[name] += 1
        async with self.deciding:
            memory = self.memory
            noted = RoleTransition(time.time_ns() // 1000, name, memory.state.value, memory.epoch, text)
            self.transitions = (*self.transitions, noted)
            await self.keep(memory)

    async def _write(self, stored: StoredState) -> None:
        # A disk that takes no writes keeps the region where it is: a promise that is not durable must not be given.
        while True:
            try:
                return await trio.to_thread.run_sync(self._file.keep, stored)
            except Unavailable as error:
                log.error("the role cannot be kept: %s", error)
                await trio.sleep(RETRY_SECONDS)

    def look_again(self) -> None:
        """Something has changed that a decision may hang on."""
        self.changed.set()
        self.changed = trio.Event()  # whoever waits has the old one in hand

    # -- the flow

    def ensure_flow(self) -> None:
        """The role's part of the flow runs, save while this region comes back."""
        if not self.region.flow.is_running and self.memory.state not in (RoleState.REJOINING, RoleState.HALTED):
            self.session.begin()
            self.region.flow.start(in_role(self.config, self.memory.half, self.memory.epoch))

    async def look_for_first_copy(self) -> None:
        """See whether it is in the journal by now. Once there it stays: no rewind goes behind it."""
        sequence = self.region.journal_head.position.sequence
        if not self.is_whole and sequence != self._looked_at:
            self.is_whole = await trio.to_thread.run_sync(self.region.adapter.is_whole)
            self._looked_at = sequence

    async def look_after_ledger(self) -> None:
        """Fence what came since (a new table, say), and ask why the ledger could not be a primary's."""
        adapter = self.region.adapter
        await self.look_for_first_copy()
        try:
            self.unfit = await self._unfit()
            await adapter.fence.install()
            self._complaints.over("the ledger")
        except ReplicatorError as error:
            self._complaints.about("the ledger", f"the ledger cannot be looked after: {error}")

    async def _unfit(self) -> str:
        """Why the ledger could not be a primary's; also that it does not answer."""
        if self.memory.half != "replica":
            return ""
        try:
            return await self.region.adapter.unfit()
        except ReplicatorError as error:
            self._complaints.about("the ledger", f"the ledger cannot be looked after: {error}")
            return f"its ledger does not answer: {error.message}"

    async def count_orphans(self) -> None:
        """What is sealed and not handled, for status; that it cannot be read keeps nothing else from going on."""
        try:
            await trio.to_thread.run_sync(self.orphans.count)
        except ReplicatorError as error:
            log.error("the sealed orphans cannot be counted: %s", error)

    # -- who is where

    def lease_view(self) -> LeaseView | None:
        """The lease as it is known now; None while its store does not answer."""
        view = self.lease.view
        if self.rules.exclusive or view is None:
            return view
        reports = [heard.report for heard in self.peers.heard.values()]
        self._manual = view_of(view, reports, self._manual)
        return self._manual

    def url_of(self, region: str) -> str:
        """Where the others reach it. Raises Unavailable if nobody knows it."""
        assert self.config.cluster is not None
        url = self.config.cluster.regions.get(region)
        if url is None:
            cure = "add it to [cluster] regions, or take the region out of the lease store"
            raise Unavailable("unknown_region", f"region {region!r} is not in the cluster", place="lease", cure=cure)
        return url

    def primary_url(self) -> str | None:
        """Where writers are to go, as far as is known; None if that is here."""
        view = self.lease_view()
        if view is None or view.holder is None or view.holder.region == self.rules.me:
            return None
        return self.config.cluster.regions.get(view.holder.region) if self.config.cluster else None

    def _primary_or_own_url(self) -> str | None:
        """Where the primary's sidecar is, also if it is this one."""
        return self.primary_url() or (self.config.url if self.memory.state is RoleState.PRIMARY else None)

    def _is_urgent(self) -> bool:
        """Whether the peers are looked at as often as possible."""
        return self.memory.state not in SETTLED
