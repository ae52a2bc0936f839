"""The controller of a region in a cluster: it looks, decides one step, takes it, and looks again.

    looking     ``observe``: the lease store · the peers' reports · this region's own parts
    deciding    ``decide``: pure, one step at a time
    acting      ``executor``: the fence and the lease · the flow of the role · coming back

Guarantee: what follows from a decision is done only after the durable state that it led to is on disk. A promise is
durable, and this region takes nothing of an older epoch any more, before it is answered. An action that fails is shown,
and decided anew.

Non-goals: when to do what (``decide``), HTTP (``serve``).
"""

from __future__ import annotations

import trio

from replicator.cluster.decisions.decide import Decision, decide, promise
from replicator.cluster.decisions.model import MemberReport, Order, first_state
from replicator.cluster.decisions.orders import check_order, present_order
from replicator.cluster.decisions.primary import successor
from replicator.cluster.decisions.promises import breaks_promise
from replicator.cluster.decisions.states import BEGINS_RETURN, ENDS_ORDERS, IllegalEvent, RoleEvent, RoleState
from replicator.cluster.decisions.step import entering
from replicator.cluster.failover.executor import Executor
from replicator.cluster.failover.leaving import give_up
from replicator.cluster.failover.member_report import report
from replicator.cluster.failover.membership import Membership
from replicator.cluster.failover.observe import look, observe
from replicator.cluster.leases.base import boot_seconds
from replicator.errors import Rejected

TICK_SECONDS = 0.1
LEDGER_SECONDS = 30.0  # between looks at the ledger
UNFIT_SECONDS = 1.0  # the same while it could not be promoted: a cure is seen soon


class Controller:
    """Decides for one region of a cluster. ``has_begun`` once its durable state is read."""

    def __init__(self, member: Membership) -> None:
        self.member = member
        self.has_begun = False
        self._executor = Executor(member)
        self._deciding = trio.CancelScope()

    async def run(self) -> None:
        """Take part, for ever. Raises Corrupt if what this region has promised cannot be read."""
        member = self.member
        await self._begin()
        async with trio.open_nursery() as nursery:
            await nursery.start(member.peers.run)
            nursery.start_soon(member.lease.watch)
            nursery.start_soon(member.lease.hold)
            nursery.start_soon(self._look_after_ledger)
            nursery.start_soon(self._decide_for_ever)

    async def _begin(self) -> None:
        member = self.member
        await member.restore(first_state(member.config.region.role, member.region.journal_head.position.epoch))
        self.has_begun = True
        await member.count_orphans()
        await member.lease.find_fence()
        member.ensure_flow()

    async def _look_after_ledger(self) -> None:
        while True:
            await self.member.look_after_ledger()
            is_settled = self.member.is_whole and not self.member.unfit
            await trio.sleep(LEDGER_SECONDS if is_settled else UNFIT_SECONDS)

    async def _decide_for_ever(self) -> None:
        with self._deciding:
            await self._step_for_ever()

    async def _step_for_ever(self) -> None:
        while True:
            changed = self.member.changed  # taken before the look: a change during it must not be slept through
            await self.member.look_for_first_copy()
            step = await self._decide()
            if step.event is not None:
                await self._entered(step.event)
            elif step.action is not None:
                await self._executor.do(step.action)
            else:
                with trio.move_on_after(TICK_SECONDS):
                    await changed.wait()

    async def _decide(self) -> Decision:
        member = self.member
        # From look to disk without a gap: a promise given in between would be overwritten by the state from before.
        async with member.deciding:
            step = decide(member.memory, await observe(member), member.rules)
            member.why = step.why
            if step.memory != member.memory:
                await member.keep(step.memory, step.event, step.why)
            return step

    async def _entered(self, event: RoleEvent) -> None:
        """What follows from an event; the state after it is durable."""
        member = self.member
        if event in ENDS_ORDERS:
            member.order = None
        primary = member.region.flow.primary
        if primary is not None and member.memory.state is RoleState.DEMOTED:
            primary.stop_acknowledging("this region does not lead any more")
        if event is RoleEvent.HANDED_OVER:
            member.lease.forget()
        if event in BEGINS_RETURN:
            member.rejoin.begin()
        member.ensure_flow()
        member.peers.hurry()

    # -- the end

    async def leave(self, seconds: float) -> None:
        """Before the process ends, and while it still serves: hand the lead over, or else close, and give the lease
        back, so that nobody has to wait for its end. For so long at most; in ``automatic`` mode alone, for elsewhere a
        person says who leads, and a primary that is started again within its lease goes on."""
        member = self.member
        by_itself = member.rules.mode == "automatic" and member.rules.exclusive
        if member.memory.state is not RoleState.PRIMARY or not by_itself:
            return
        with trio.move_on_after(seconds):
            target = successor(look(member), member.rules)
            if target is not None and await self._hands_over(target, seconds / 2):
                return
            self._deciding.cancel()  # or it would stand again at once
            await give_up(member)

    async def _hands_over(self, target: str, seconds: float) -> bool:
        member = self.member
        if present_order(member.order, boot_seconds()) is None:  # else one is under way, and is seen through
            until = boot_seconds() + seconds
            member.order = Order("switchover", until, target=target, reason="its sidecar is told to stop")
            member.look_again()
        while member.order is not None and member.memory.state in (RoleState.PRIMARY, RoleState.DEMOTING):
            changed = member.changed
            with trio.move_on_after(TICK_SECONDS):
                await changed.wait()
        return member.memory.state not in (RoleState.PRIMARY, RoleState.DEMOTING)

    # -- what others ask

    async def promised(self, epoch: int) -> MemberReport:
        """Promise an epoch: nothing older is taken, acknowledged or written from now on."""
        member = self.member
        async with member.deciding:
            memory = promise(member.memory, epoch)
            # Durable before the fence closes: whoever is killed behind this line does not open in an older epoch again.
            if memory != member.memory:
                await member.keep(memory)
            if breaks_promise(member.memory, epoch, is_open=member.lease.is_open):
                await member.lease.close(None, retry_after=None)
            if not member.session.honours(epoch):
                await member.session.follow(None, None, epoch)
        member.look_again()
        return report(member)

    def take_order(self, order: Order) -> None:
        """Carry an order out from now on. Raises Rejected if something speaks against it."""
        member, now = self.member, boot_seconds()
        target = member.peers.heard.get(order.target)
        check_order(order, member.memory, report(member), member.lease_view(), member.rules, member.order, now, target)
        member.order = order
        replica = member.region.flow.replica
        if order.verb == "take" and replica is not None:
            replica.verify_now()  # while the lease is claimed; the promotion asks for it anyway
        member.look_again()

    async def pause(self, event: RoleEvent, why: str) -> None:
        """PAUSE or RESUME. Raises Rejected where the state does not know it."""
        member = self.member
        async with member.deciding:
            try:
                step = entering(member.memory, event, why)
            except IllegalEvent:
                message = f"this region is {member.memory.state}"
                cure = "pause and resume are for regions that follow; rejoin is for one that is halted"
                raise Rejected("not_now", message, status=409, place=member.rules.me, cure=cure) from None
            await member.keep(step.memory, event, why)
        member.look_again()
