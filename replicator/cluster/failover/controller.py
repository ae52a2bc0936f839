"""The office of a region in a cluster: looks, decides, and does what was decided.

    looking    the lease store (``term``) · the peers' reports (``peers``) · this region's own parts
    deciding   ``decide``: pure, one step at a time
    doing      the fence and the lease (``term``) · the halves of the flow (``halves``) · coming back (``returning``)

Guarantee: what follows from a decision is done only after the memory that it led to is durable. A promise is durable,
and this region takes nothing of an older epoch any more, before it is answered. An action that fails is shown, and
decided anew.

Non-goals: when to do what (``decide``), HTTP (``serve``).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable

import trio
from starlette.routing import BaseRoute

from replicator.cluster.failover.admission import Admission
from replicator.cluster.failover.decide import Decision, decide, promise
from replicator.cluster.failover.durable_state import HAPPENED_LIMIT, DurableStateFile, RoleTransition, StoredState
from replicator.cluster.failover.executor import Executor
from replicator.cluster.failover.feed_session import FeedSession
from replicator.cluster.failover.lease_keeper import LeaseKeeper
from replicator.cluster.failover.manual_lease import view_of
from replicator.cluster.failover.member_report import report
from replicator.cluster.failover.model import DurableState, MemberReport, Observation, Order
from replicator.cluster.failover.orders import check_order
from replicator.cluster.failover.peers import Peers
from replicator.cluster.failover.rejoin import RejoinProcedure
from replicator.cluster.failover.states import FOLLOWS, RoleEvent, RoleState, moved
from replicator.cluster.leases.base import LeaseView, boot_seconds
from replicator.cluster.rejoin.serve import routes as orphan_routes
from replicator.config import Config
from replicator.config.roles import in_role
from replicator.errors import Rejected, ReplicatorError, Unavailable
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.runtime.orphans import OrphanTaker, orphans_of
from replicator.runtime.role_adapters import role_ledger
from replicator.runtime.roles.pipeline import RolePipeline
from replicator.runtime.roles.primary import PrimaryPipeline
from replicator.runtime.roles.replica import ReplicaPipeline
from replicator.runtime.roles.runner import RoleRunner

TICK_SECONDS = 0.1
ACTION_SECONDS = 60.0
RETRY_SECONDS = 0.2
MOVING_RETRY_AFTER_SECONDS = 1
INSTALL_SECONDS = 30.0
UNFIT_SECONDS = 1.0
DRAIN_SECONDS = 2.0
FORK_REASONS = frozenset({"diverged", "ahead_of_primary"})
_ENDS_ORDERS = frozenset(
    {
        RoleEvent.LOST,
        RoleEvent.REFUSED,
        RoleEvent.PROMOTED,
        RoleEvent.REOPEN,
        RoleEvent.HANDED_OVER,
        RoleEvent.EXPIRED,
        RoleEvent.REWOUND,
    }
)

log = logging.getLogger("replicator")


class Controller:
    """Decides for one region. ``build`` builds the half of the flow for a configuration in a role. ``probe`` is called
    before and after everything that is done or kept: tests die there."""

    def __init__(
        self,
        core: RegionContext,
        running: RoleRunner,
        build: Callable[[Config], RolePipeline],
        probe: Callable[[str], None] = lambda step: None,
    ) -> None:
        config = core.config
        assert config.cluster is not None
        self.core, self.running, self._build = core, running, build
        self.config = config
        self.rules = wiring.rules(config)
        self.ledger = role_ledger(core)
        lease = wiring.lease(config, core.strand)
        assert config.lease is not None
        clock_error, margin = config.lease.clock_error, config.lease.margin_seconds
        self.term = LeaseKeeper(
            lease, self.ledger.fence, self.rules.me, boot_seconds, clock_error, margin, self.look_again
        )
        others = {name: url for name, url in config.cluster.regions.items() if name != self.rules.me}
        token = config.cluster.token.reveal() if config.cluster.token else None
        self.peers = Peers(others, token, config.cluster.ca, boot_seconds, self._is_urgent, self.look_again)
        self.returning = RejoinProcedure(core, config, self.ledger)
        self.following = FeedSession(running)
        self.memory = DurableState(RoleState.FOLLOWING, "replica")
        self.happened: tuple[RoleTransition, ...] = ()
        self.totals: Counter[str] = Counter({event.name.lower(): 0 for event in RoleEvent})
        self.orphans = orphans_of(core, self._primary_or_own_url)
        self.order: Order | None = None
        self.why = ""
        self.probe = probe
        self._file = DurableStateFile(config.region.data_dir / "role.json")
        self._since = boot_seconds()
        self.began_at = boot_seconds()
        self.unfit = ""
        self._doing = Executor(self)
        running.admit = Admission(self)
        self.deciding = trio.Lock()
        self.changed = trio.Event()
        self._manual: LeaseView | None = None

    # -- running

    def routes(self) -> list[BaseRoute]:
        """Reports, promises, orders and sealed orphans over HTTP."""
        from replicator.cluster.failover.serve import routes

        return [*routes(self), *orphan_routes(self.orphans, OrphanTaker(self).taking)]

    async def run(self) -> None:
        """Take part, for ever."""
        await self._begin()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.peers.run)
            nursery.start_soon(self.term.watch)
            nursery.start_soon(self.term.hold)
            nursery.start_soon(self._look_after_ledger)
            nursery.start_soon(self._decide_for_ever)

    async def _begin(self) -> None:
        kept = await trio.to_thread.run_sync(self._file.read)
        if kept is None:
            is_primary = self.config.region.role == "primary"
            head = self.core.tail.head.epoch
            first = DurableState(
                RoleState.DEMOTED if is_primary else RoleState.FOLLOWING, "primary" if is_primary else "replica"
            )
            kept = StoredState(dataclasses.replace(first, epoch=head, promised=head, led=head if is_primary else 0))
        self.memory, self.happened = kept.memory, kept.happened
        self.term.grant = kept.grant
        self.core.view.office = self
        await self.count_orphans()
        await self.term.find_fence()
        self.ensure_half()

    def look_again(self) -> None:
        """Something has changed that a decision may hang on."""
        self.changed.set()
        self.changed = trio.Event()

    def _is_urgent(self) -> bool:
        """Whether the peers are looked at as often as possible."""
        return self.memory.state not in (RoleState.PRIMARY, RoleState.FOLLOWING, RoleState.PAUSED, RoleState.HALTED)

    async def _look_after_ledger(self) -> None:
        """What came since (a new table, say) is fenced, too."""
        while True:
            try:
                self.unfit = await self.ledger.unfit() if self.memory.half == "replica" else ""
                await self.ledger.fence.install()
            except ReplicatorError as error:
                log.warning("the ledger cannot be looked after: %s", error)
            await trio.sleep(UNFIT_SECONDS if self.unfit else INSTALL_SECONDS)

    # -- deciding

    async def _decide_for_ever(self) -> None:
        while True:
            changed = self.changed
            step = await self._decide()
            if step.event is not None:
                await self._entered(step.event)
            elif step.action is not None:
                await self._doing.do(step.action)
            else:
                with trio.move_on_after(TICK_SECONDS):
                    await changed.wait()

    async def _decide(self) -> Decision:
        async with self.deciding:
            seen = await self.seen()
            step = decide(self.memory, seen, self.rules)
            self.why = step.why
            if step.memory != self.memory:
                await self.keep(step.memory, step.event, step.why)
            return step

    async def keep(self, memory: DurableState, event: RoleEvent | None, why: str) -> None:
        """Make a memory durable; until it is, nothing else is done."""
        self.probe(f"before {event.name.lower() if event else 'memory'}")
        happened = self.happened
        if event is not None:
            wall = time.time_ns() // 1000
            happened = (*happened, RoleTransition(wall, event.name.lower(), memory.state.value, memory.epoch, why))
            happened = happened[-HAPPENED_LIMIT:]
        while True:
            try:
                kept = StoredState(memory, self.term.grant, happened)
                await trio.to_thread.run_sync(self._file.keep, kept)
                break
            except Unavailable as error:
                log.error("the role cannot be kept: %s", error)
                await trio.sleep(RETRY_SECONDS)
        if event is not None:
            log.warning("%s: %s → %s, epoch %d %s", self.rules.me, event.name, memory.state, memory.epoch, why)
            self._since = boot_seconds()
            self.totals[event.name.lower()] += 1
        self.memory, self.happened = memory, happened
        self.probe(f"after {event.name.lower() if event else 'memory'}")

    async def seen(self) -> Observation:
        """What a decision is made from."""
        if self.order is not None and boot_seconds() >= self.order.until:
            self.order = None
        closing = self.memory.state is RoleState.DEMOTING and not self.term.is_open and self.memory.closed_at is None
        seen = self.look()
        return dataclasses.replace(seen, captured=await self._is_captured()) if closing else seen

    def look(self) -> Observation:
        """The same as far as it is known without I/O."""
        rejoining = self.memory.state is RoleState.REJOINING
        return Observation(
            now=boot_seconds(),
            since=self._since,
            me=self.report(),
            lease=self.lease_view(),
            granted=None if self.term.grant is None else self.term.grant.epoch,
            usable_until=self.term.usable_until,
            peers=dict(self.peers.heard),
            order=self.order,
            following=self.following.seen(self.memory.epoch),
            polled=self.peers.polled,
            asked=self._doing.asked == self.memory.epoch,
            diverged=self.following.is_diverged,
            settled=self.following.is_settled,
            sealed=rejoining and self.returning.is_sealed,
            rewound=rejoining and self.returning.is_rewound,
            stuck=self.returning.stuck if rejoining else "",
        )

    async def _is_captured(self) -> bool:
        try:
            return await self.ledger.is_captured(self.running.half, self._since)
        except ReplicatorError as error:
            log.warning("whether all is captured cannot be told: %s", error)
            return False

    def lease_view(self) -> LeaseView | None:
        """The lease as it is known now."""
        view = self.term.view
        if self.rules.exclusive or view is None:
            return view
        reports = [heard.report for heard in self.peers.heard.values()]
        self._manual = view_of(view, reports, self._manual)
        return self._manual

    def report(self) -> MemberReport:
        """This region, as it says."""
        return report(self)

    # -- what others ask

    async def promised(self, epoch: int) -> MemberReport:
        """Promise an epoch: nothing older is taken, acknowledged or written from now on."""
        async with self.deciding:
            memory = promise(self.memory, epoch)
            if memory != self.memory:
                await self.keep(memory, None, "")
            if self.term.is_open and self.memory.led < epoch:
                await self.term.close(None, retry_after=None)
            if not self.following.honours(epoch):
                await self.following.follow(None, None, epoch)
        self.look_again()
        return self.report()

    def take_order(self, order: Order) -> None:
        """Carry an order out from now on. Raises Rejected if something speaks against it."""
        check_order(order, self.memory, self.report(), self.lease_view(), self.rules, self.order, boot_seconds())
        self.order = order
        if order.verb == "take" and isinstance(self.running.half, ReplicaPipeline):
            self.running.half.watching.prove()  # while the lease is claimed; the promotion asks for it anyway
        self.look_again()

    async def pause(self, event: RoleEvent, why: str) -> None:
        """PAUSE or RESUME. Raises Rejected where the state does not know it."""
        async with self.deciding:
            try:
                state = moved(self.memory.state, event)
            except AssertionError:
                message = f"this region is {self.memory.state}"
                cure = "pause and resume are for regions that follow; rejoin is for one that is halted"
                raise Rejected("not_now", message, status=409, place=self.rules.me, cure=cure) from None
            await self.keep(dataclasses.replace(self.memory, state=state, why=why), event, why)
        self.look_again()

    # -- doing

    async def _entered(self, event: RoleEvent) -> None:
        """What follows from an event: its memory is durable."""
        if event in _ENDS_ORDERS:
            self.order = None
        half = self.running.half
        if (
            isinstance(half, PrimaryPipeline)
            and half.acknowledgement is not None
            and self.memory.state is RoleState.DEMOTED
        ):
            half.acknowledgement.stop("this region does not lead any more")
        if event is RoleEvent.HANDED_OVER:
            self.term.forget()
        if event in (RoleEvent.DIVERGED, RoleEvent.REJOIN):
            self.returning.begin()
        self.ensure_half()
        self.peers.hurry()

    def ensure_half(self) -> None:
        """A half runs, save while this region comes back."""
        if self.running.half is None and self.memory.state not in (RoleState.REJOINING, RoleState.HALTED):
            self.following.begin()
            self.running.start(self._build(in_role(self.config, self.memory.half, self.memory.epoch)))

    # -- who is where

    def url_of(self, region: str) -> str:
        """Where the others reach it. Raises Unavailable if nobody knows it."""
        assert self.config.cluster is not None
        url = self.config.cluster.regions.get(region)
        if url is None:
            cure = "add it to [cluster] regions, or take the region out of the lease store"
            raise Unavailable("unknown_region", f"region {region!r} is not in the cluster", place="lease", cure=cure)
        return url

    def _primary_url(self) -> str | None:
        """Where writers are to go, as far as is known."""
        view = self.lease_view()
        if view is None or view.holder is None or view.holder.region == self.rules.me:
            return None
        return self.config.cluster.regions.get(view.holder.region) if self.config.cluster else None

    primary_url = _primary_url

    def _primary_or_own_url(self) -> str | None:
        """Where the primary's sidecar is, also if it is this one."""
        return self._primary_url() or (self.config.url if self.memory.state is RoleState.PRIMARY else None)

    async def count_orphans(self) -> None:
        """What is sealed and not handled, for status; that it cannot be read keeps nothing else from going on."""
        try:
            await trio.to_thread.run_sync(self.orphans.count)
        except ReplicatorError as error:
            log.error("the sealed orphans cannot be counted: %s", error)

    @property
    def follows(self) -> bool:
        """Whether this region follows, or would."""
        return self.memory.state in FOLLOWS
