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

from replicator import parts
from replicator.config import Config
from replicator.config.roles import in_role
from replicator.core import Core
from replicator.errors import Halted, Rejected, ReplicatorError, Unavailable
from replicator.failover.decide import Step, decide, promise
from replicator.failover.ledgers import role_ledger
from replicator.failover.manual import view_of
from replicator.failover.memory import HAPPENED_LIMIT, Happened, Kept, MemoryFile
from replicator.failover.orders import check_order
from replicator.failover.orphaned import Taker, orphans_of
from replicator.failover.peers import Peers
from replicator.failover.readiness import why_not
from replicator.failover.returning import Returning
from replicator.failover.seen import (
    Action,
    AskPromises,
    Claim,
    Close,
    Fetch,
    Follow,
    HandOver,
    KeepMine,
    Memory,
    Open,
    Order,
    Promote,
    Prove,
    Release,
    Report,
    Rewind,
    Seal,
    Seen,
    Tell,
)
from replicator.failover.states import FOLLOWS, Event, State, moved
from replicator.failover.term import Term
from replicator.halves.base import Half
from replicator.halves.primary import Primary
from replicator.halves.replica import ReplicaHalf
from replicator.halves.running import Running
from replicator.leases.base import Holder, LeaseView, boot_seconds
from replicator.promotion.base import append_epoch
from replicator.rejoin.serve import routes as orphan_routes
from replicator.supervise import first_cause

TICK_SECONDS = 0.1
ACTION_SECONDS = 60.0
RETRY_SECONDS = 0.2
MOVING_RETRY_AFTER_SECONDS = 1
INSTALL_SECONDS = 30.0
UNFIT_SECONDS = 1.0
DRAIN_SECONDS = 2.0
FORK_REASONS = frozenset({"diverged", "ahead_of_primary"})
_ENDS_ORDERS = frozenset(
    {Event.LOST, Event.REFUSED, Event.PROMOTED, Event.REOPEN, Event.HANDED_OVER, Event.EXPIRED, Event.REWOUND}
)

log = logging.getLogger("replicator")


class Office:
    """Decides for one region. ``build`` builds the half of the flow for a configuration in a role. ``probe`` is called
    before and after everything that is done or kept: tests die there."""

    def __init__(
        self,
        core: Core,
        running: Running,
        build: Callable[[Config], Half],
        probe: Callable[[str], None] = lambda step: None,
    ) -> None:
        config = core.config
        assert config.cluster is not None
        self.core, self.running, self._build = core, running, build
        self.config = config
        self.rules = parts.rules(config)
        self.ledger = role_ledger(core)
        lease = parts.lease(config, core.strand)
        assert config.lease is not None
        clock_error, margin = config.lease.clock_error, config.lease.margin_seconds
        self.term = Term(lease, self.ledger.fence, self.rules.me, boot_seconds, clock_error, margin, self.look_again)
        others = {name: url for name, url in config.cluster.regions.items() if name != self.rules.me}
        token = config.cluster.token.reveal() if config.cluster.token else None
        self.peers = Peers(others, token, config.cluster.ca, boot_seconds, self._is_urgent, self.look_again)
        self.returning = Returning(core, config, self.ledger)
        self.memory = Memory(State.FOLLOWING, "replica")
        self.happened: tuple[Happened, ...] = ()
        self.totals: Counter[str] = Counter({event.name.lower(): 0 for event in Event})
        self.orphans = orphans_of(core, self._primary_or_own_url)
        self.order: Order | None = None
        self.why = ""
        self._probe = probe
        self._file = MemoryFile(config.region.data_dir / "role.json")
        self._since = boot_seconds()
        self._began = trio.current_time()
        self.began_at = boot_seconds()
        self._unfit = ""
        self._told = ""
        self._asked = 0
        self._handed: Holder | None = None
        self._following: str | None = None
        self._deciding = trio.Lock()
        self._changed = trio.Event()
        self._manual: LeaseView | None = None

    # -- running

    def routes(self) -> list[BaseRoute]:
        """Reports, promises, orders and sealed orphans over HTTP."""
        from replicator.failover.serve import routes

        return [*routes(self), *orphan_routes(self.orphans, Taker(self).taking)]

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
            first = Memory(State.DEMOTED if is_primary else State.FOLLOWING, "primary" if is_primary else "replica")
            kept = Kept(dataclasses.replace(first, epoch=head, promised=head, led=head if is_primary else 0))
        self.memory, self.happened = kept.memory, kept.happened
        self.term.grant = kept.grant
        self.core.view.office = self
        await self._count_orphans()
        await self.term.find_fence()
        self._ensure_half()

    def look_again(self) -> None:
        """Something has changed that a decision may hang on."""
        self._changed.set()
        self._changed = trio.Event()

    def _is_urgent(self) -> bool:
        """Whether the peers are looked at as often as possible."""
        return self.memory.state not in (State.PRIMARY, State.FOLLOWING, State.PAUSED, State.HALTED)

    async def _look_after_ledger(self) -> None:
        """What came since (a new table, say) is fenced, too."""
        while True:
            try:
                self._unfit = await self.ledger.unfit() if self.memory.half == "replica" else ""
                await self.ledger.fence.install()
            except ReplicatorError as error:
                log.warning("the ledger cannot be looked after: %s", error)
            await trio.sleep(UNFIT_SECONDS if self._unfit else INSTALL_SECONDS)

    # -- deciding

    async def _decide_for_ever(self) -> None:
        while True:
            changed = self._changed
            step = await self._decide()
            if step.event is not None:
                await self._entered(step.event)
            elif step.action is not None:
                await self._do(step.action)
            else:
                with trio.move_on_after(TICK_SECONDS):
                    await changed.wait()

    async def _decide(self) -> Step:
        async with self._deciding:
            seen = await self.seen()
            step = decide(self.memory, seen, self.rules)
            self.why = step.why
            if step.memory != self.memory:
                await self._keep(step.memory, step.event, step.why)
            return step

    async def _keep(self, memory: Memory, event: Event | None, why: str) -> None:
        """Make a memory durable; until it is, nothing else is done."""
        self._probe(f"before {event.name.lower() if event else 'memory'}")
        happened = self.happened
        if event is not None:
            wall = time.time_ns() // 1000
            happened = (*happened, Happened(wall, event.name.lower(), memory.state.value, memory.epoch, why))
            happened = happened[-HAPPENED_LIMIT:]
        while True:
            try:
                kept = Kept(memory, self.term.grant, happened)
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
        self._probe(f"after {event.name.lower() if event else 'memory'}")

    async def seen(self) -> Seen:
        """What a decision is made from."""
        if self.order is not None and boot_seconds() >= self.order.until:
            self.order = None
        closing = self.memory.state is State.DEMOTING and not self.term.is_open and self.memory.closed_at is None
        seen = self.look()
        return dataclasses.replace(seen, captured=await self._is_captured()) if closing else seen

    def look(self) -> Seen:
        """The same as far as it is known without I/O."""
        rejoining = self.memory.state is State.REJOINING
        return Seen(
            now=boot_seconds(),
            since=self._since,
            me=self.report(),
            lease=self.lease_view(),
            granted=None if self.term.grant is None else self.term.grant.epoch,
            usable_until=self.term.usable_until,
            peers=dict(self.peers.heard),
            order=self.order,
            following=self._following,
            polled=self.peers.polled,
            asked=self._asked == self.memory.epoch,
            diverged=self._is_diverged(),
            settled=not isinstance(self.running.half, ReplicaHalf) or self.running.half.follower.is_drained,
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

    def report(self) -> Report:
        """This region, as it says."""
        head, half = self.core.tail.head, self.running.half
        is_replica = isinstance(half, ReplicaHalf)
        strand = self.core.view.strand_state()
        heard, heard_head = self._heard(half)
        at_risk, unknown = self._at_risk()
        return Report(
            region=self.rules.me,
            state=self.memory.state,
            epoch=self.memory.epoch,
            promised=self.memory.promised,
            head_epoch=head.epoch,
            sequence=head.sequence,
            hash=head.hash.hex(),
            applied=half.applied.head.sequence if is_replica and half is not None else head.sequence,
            verified=strand.verify.verified if is_replica and strand.verify is not None else head.sequence,
            open=self.term.is_open,
            priority=self.config.failover.priority,
            blocked=why_not(self.memory.state, strand, self._unfit)[:500],
            heard_seconds=heard,
            heard_head=heard_head,
            at_risk=at_risk,
            at_risk_unknown=unknown,
            led=self.memory.led,
        )

    def _at_risk(self) -> tuple[dict[str, float], int]:
        """What would be lost with the primary, as it says itself."""
        at_risk = self.core.view.at_risk
        if at_risk is not None:
            view = at_risk.view()
            return {
                f"{table} {currency}": float(sum_) for (table, currency), sum_ in view.amounts.items()
            }, view.unknown
        heard = self.peers.heard.get(self._following or "")
        return (dict(heard.report.at_risk), heard.report.at_risk_unknown) if heard is not None else ({}, 0)

    def _heard(self, half: Half | None) -> tuple[float | None, int]:
        """How long ago this region heard one that may write, and how far that was. The feed alone does not tell: who is
        cut off from the lease store may still be sending it, fenced. So its last report counts if that is older."""
        if self.term.is_open:
            return 0.0, self.core.tail.head.sequence
        if not isinstance(half, ReplicaHalf):
            return None, 0
        heard = self.peers.heard.get(self._following or "")
        ago = trio.current_time() - max(half.follower.heard_at or self._began, self._began)
        if heard is None:
            return ago, half.follower.heard_head
        if heard.report.state not in (State.PRIMARY, State.DEMOTING, State.PROMOTING):
            return None, half.follower.heard_head
        return max(ago, boot_seconds() - heard.at), half.follower.heard_head

    def _is_diverged(self) -> bool:
        half = self.running.half
        return isinstance(half, ReplicaHalf) and half.refused in FORK_REASONS

    # -- what others ask

    async def promised(self, epoch: int) -> Report:
        """Promise an epoch: nothing older is taken, acknowledged or written from now on."""
        async with self._deciding:
            memory = promise(self.memory, epoch)
            if memory != self.memory:
                await self._keep(memory, None, "")
            if self.memory.epoch < epoch:
                if self.term.is_open:
                    await self.term.close(None, retry_after=None)
                if isinstance(self.running.half, ReplicaHalf):
                    await self._follow(None)
        self.look_again()
        return self.report()

    def take_order(self, order: Order) -> None:
        """Carry an order out from now on. Raises Rejected if something speaks against it."""
        check_order(order, self.memory, self.report(), self.lease_view(), self.rules, self.order, boot_seconds())
        self.order = order
        if order.verb == "take" and isinstance(self.running.half, ReplicaHalf):
            self.running.half.watching.prove()  # while the lease is claimed; the promotion asks for it anyway
        self.look_again()

    async def pause(self, event: Event, why: str) -> None:
        """PAUSE or RESUME. Raises Rejected where the state does not know it."""
        async with self._deciding:
            try:
                state = moved(self.memory.state, event)
            except AssertionError:
                message = f"this region is {self.memory.state}"
                cure = "pause and resume are for regions that follow; rejoin is for one that is halted"
                raise Rejected("not_now", message, status=409, place=self.rules.me, cure=cure) from None
            await self._keep(dataclasses.replace(self.memory, state=state, why=why), event, why)
        self.look_again()

    # -- doing

    async def _entered(self, event: Event) -> None:
        """What follows from an event: its memory is durable."""
        if event in _ENDS_ORDERS:
            self.order = None
        half = self.running.half
        if isinstance(half, Primary) and half.acknowledgement is not None and self.memory.state is State.DEMOTED:
            half.acknowledgement.stop("this region does not lead any more")
        if event is Event.HANDED_OVER:
            self.term.forget()
        if event in (Event.DIVERGED, Event.REJOIN):
            self.returning.begin()
        self._ensure_half()
        self.peers.hurry()

    def _ensure_half(self) -> None:
        """A half runs, save while this region comes back."""
        if self.running.half is None and self.memory.state not in (State.REJOINING, State.HALTED):
            self._following = None
            self.running.start(self._build(in_role(self.config, self.memory.half, self.memory.epoch)))

    async def _do(self, action: Action) -> None:
        """Do it, or show why it could not be done; it is decided anew in either case."""
        try:
            with trio.fail_after(ACTION_SECONDS):
                self._probe(f"before {type(action).__name__}")
                await self._act(action)
                self._probe(f"after {type(action).__name__}")
        except* (ReplicatorError, trio.TooSlowError) as group:
            leaves = group.subgroup(ReplicatorError)
            error = first_cause(leaves) if leaves is not None else None
            words = f"{type(action).__name__}: {error or 'not done in time'}"
            self.why = words
            log.warning("%s", words)
            if isinstance(error, Halted) and isinstance(action, Seal | Rewind):
                self.returning.stuck = str(error)
            await trio.sleep(RETRY_SECONDS)

    async def _act(self, action: Action) -> None:
        match action:
            case Follow(region):
                await self._follow(region)
            case Fetch(region):
                await self._follow(region)
                await self._pause_briefly()
            case Claim(epoch, instead_of):
                await self.term.claim(epoch, instead_of)
                if self.term.grant is not None:
                    await self._keep(self.memory, None, "")
            case AskPromises(epoch):
                await self.peers.promise(epoch)
                self._asked = epoch
            case Prove():
                if isinstance(self.running.half, ReplicaHalf):
                    self.running.half.watching.prove()
                await self._pause_briefly()
            case Promote(epoch):
                await self._promote(epoch)
            case Open(epoch):
                await self.term.open(epoch)
            case Close(moving):
                retry_after = MOVING_RETRY_AFTER_SECONDS if moving else None
                await self.term.close(None if moving else self._primary_url(), retry_after=retry_after)
            case HandOver(target, sequence):
                await self._hand_over(target, sequence)
            case KeepMine():
                if await self.term.keep_mine():
                    await self._keep(dataclasses.replace(self.memory, reopening=True), None, "")
            case Release():
                await self.term.release()
            case Seal(region):
                await self.running.stop()
                await self.returning.seal(self.url_of(region), was_primary=self.memory.half == "primary")
                await self._count_orphans()
            case Rewind():
                await self._rewind()
            case Tell(text):
                await self._tell(text)

    async def _pause_briefly(self) -> None:
        changed = self._changed
        with trio.move_on_after(TICK_SECONDS / 4):
            await changed.wait()

    async def _follow(self, region: str | None) -> None:
        half = self.running.half
        if not isinstance(half, ReplicaHalf):
            raise Unavailable("changing_role", "the replica's half does not run yet", place=self.rules.me)
        half.follow(None if region is None else self.url_of(region))
        self._following = region
        if region is None:
            with trio.move_on_after(DRAIN_SECONDS):
                while not half.follower.is_drained:  # noqa: ASYNC110  # a plain fact, that sets no event
                    await trio.sleep(0.005)

    async def _promote(self, epoch: int) -> None:
        """Set the ledger up as a primary's. What is durable says how far that has come; each step may be repeated."""
        await self.running.stop()
        core = self.core
        if self.memory.half == "replica":
            await self.ledger.promote(epoch)
        await trio.to_thread.run_sync(append_epoch, core.journal, core.strand, epoch, time.time_ns() // 1000)
        core.look_again()
        async with self._deciding:
            await self._keep(dataclasses.replace(self.memory, half="primary", led=epoch), None, "")
        self._ensure_half()

    async def _hand_over(self, target: str, sequence: int) -> None:
        view = self.lease_view()
        if view is None or view.holder is None or view.holder.region != self.rules.me or self.order is None:
            return
        left = self.order.until - boot_seconds()
        if self._handed == view.holder:  # it was told: the lease shows what comes of it
            await self.term.look()
            await self._pause_briefly()
            return
        take = Order("take", 0.0, target=target, instead_of=view.holder, sequence=sequence, reason=self.order.reason)
        await self.peers.tell(target, take, left)
        self._handed = view.holder

    async def _rewind(self) -> None:
        await self.running.stop()
        await self.returning.rewind(was_primary=self.memory.half == "primary")
        self.core.look_again()

    async def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            log.warning("shadow: %s", text)
            self.totals["shadow"] += 1
            async with self._deciding:
                shadow = Happened(time.time_ns() // 1000, "shadow", self.memory.state.value, self.memory.epoch, text)
                self.happened = (*self.happened, shadow)
                await self._keep(self.memory, None, "")
        await trio.sleep(TICK_SECONDS)

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
        return self._primary_url() or (self.config.url if self.memory.state is State.PRIMARY else None)

    async def _count_orphans(self) -> None:
        """What is sealed and not handled, for status; that it cannot be read keeps nothing else from going on."""
        try:
            await trio.to_thread.run_sync(self.orphans.count)
        except ReplicatorError as error:
            log.error("the sealed orphans cannot be counted: %s", error)

    @property
    def follows(self) -> bool:
        """Whether this region follows, or would."""
        return self.memory.state in FOLLOWS
