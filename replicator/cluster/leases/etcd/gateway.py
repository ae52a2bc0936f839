"""Asking the cluster: whichever member answers.

Guarantee: an outcome, or Unavailable that tells of every member, within the budget, however many members are down,
silent or cut off.

The idea: a question goes to the member that answered last. If that one fails, or is silent for a share of the budget,
the next one is asked *too*, and the first outcome counts: a member that hangs costs a share once, not every time. So
each question must be one that may arrive twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from replicator.cluster.leases.etcd.member import EtcdCluster, EtcdMember
from replicator.cluster.leases.etcd.options import EtcdOptions
from replicator.errors import ReplicatorError, Unavailable

T = TypeVar("T")


class Gateway:
    """All members. The connections open with the first question."""

    def __init__(self, options: EtcdOptions, budget_seconds: float | None = None) -> None:
        self._cluster = EtcdCluster(options)
        self._budget_seconds = budget_seconds or options.budget_seconds
        self._members = [EtcdMember(self._cluster, endpoint) for endpoint in options.endpoints]

    async def ask(self, step: Callable[[EtcdMember], Awaitable[T]]) -> T:
        """What ``step`` returned or raised at the first member where it was not Unavailable. Raises Unavailable where
        there is none."""
        _ = self._cluster.http  # made before the time runs: reading the system's certificates takes some
        question = _GatewayRequest(self._members, step, self._budget_seconds)
        with trio.move_on_after(self._budget_seconds):
            await question.ask()
        if question.decided_by is not None:
            first = question.decided_by
            self._members.sort(key=lambda member: member is not first)  # stable: the others stay in their order
        return question.outcome()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._cluster.aclose()


class _GatewayRequest(Generic[T]):
    """One step, at as many members as it takes."""

    def __init__(
        self, members: Sequence[EtcdMember], step: Callable[[EtcdMember], Awaitable[T]], budget_seconds: float
    ) -> None:
        self._members = list(members)
        self._step = step
        # All are asked within half of the budget, so that the last one has the other half for its answer.
        self._share_seconds = budget_seconds / (2 * len(members))
        self._answers: list[T] = []
        self._error: ReplicatorError | None = None
        silent = f"no answer within {budget_seconds:.2g} s"
        cure = "check that etcd is well there, and the network to it"
        self._faults = {
            member: Unavailable("lease_store_silent", silent, place=member.endpoint, cure=cure) for member in members
        }
        self.decided_by: EtcdMember | None = None

    async def ask(self) -> None:
        """Until a member has decided or all have failed; a silent one is waited for until the caller's time is over."""
        async with trio.open_nursery() as nursery:
            for member in self._members:
                failed = trio.Event()
                nursery.start_soon(self._attempt, member, failed, nursery.cancel_scope)
                with trio.move_on_after(self._share_seconds):
                    await failed.wait()

    async def _attempt(self, member: EtcdMember, failed: trio.Event, others: trio.CancelScope) -> None:
        try:
            answer = await self._step(member)
        except Unavailable as fault:
            self._faults[member] = fault
            failed.set()
            return
        except ReplicatorError as error:  # it has decided; only what is Unavailable goes on to others
            if self.decided_by is None:  # two may end in one step of the scheduler; the first counts
                self.decided_by, self._error = member, error
        else:
            if self.decided_by is None:
                self.decided_by, self._answers = member, [answer]
        others.cancel()

    def outcome(self) -> T:
        """The answer; raises what a member decided, or Unavailable."""
        if self._error is not None:
            raise self._error
        if self._answers:
            return self._answers[0]
        faults = list(self._faults.values())
        reasons = {fault.reason for fault in faults}
        message = "; ".join(f"{fault.place}: {fault.message}" for fault in faults)
        reason = reasons.pop() if len(reasons) == 1 else "lease_store_unreachable"
        raise Unavailable(reason, message, place="[lease] endpoints", cure=faults[0].cure)
