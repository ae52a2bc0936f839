"""One region: what its sidecar keeps on disk, what it knows, and what it says of itself.

As in the running sidecar: the memory, the grant, the journal, the spool and the seal are durable; the order, the view
of the lease, the peers' reports, the fence's permit and whom it follows end with the process. The fence's permit is a
time on the region's own clock, counted from before the lease store was asked.

    the feed ─▶ spool (durable: this is what K counts) ─▶ journal ─▶ applied ─▶ verified

Its tasks are in ``tasks``, its actions in ``doing``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from replicator.cluster.decisions.model import (
    DurableState,
    FailoverRules,
    HeardReport,
    MemberReport,
    Observation,
    Order,
)
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import Holder, LeaseView
from replicator.ops.simulation.chain import SimulatedBlock
from replicator.ops.simulation.schedule import Process

if TYPE_CHECKING:
    from replicator.ops.simulation.world import World


class SealedOrphans(NamedTuple):
    """Orphans, kept: what this region had behind ``fork``. ``done``: it was rewound."""

    fork: int
    blocks: tuple[SimulatedBlock, ...]
    done: bool = False


class SimulatedRegion(Process):
    """A region of the simulated world."""

    def __init__(self, world: World, rules: FailoverRules, memory: DurableState, priority: int) -> None:
        self.world, self.rules, self.name, self.priority = world, rules, rules.me, priority
        # durable
        self.memory = memory
        self.journal: list[SimulatedBlock] = []
        self.spool: list[SimulatedBlock] = []
        self.applied = self.verified = 0
        self.grant: Holder | None = None
        self.seal: SealedOrphans | None = None
        self.sealed_ever: set[SimulatedBlock] = set()
        # its clock: true time runs through these two points
        self._rate, self._true_base, self._own_base = 1.0, 0.0, 1000.0
        # its troubles
        self.disk_full_until = self.database_down_until = self.slow_until = 0.0
        self.tells_promises_early = False  # for a mutant
        self.forget()

    def forget(self) -> None:
        """What a process that ends does not know any more."""
        self.since = self.clock()
        self.view: LeaseView | None = None
        self.asked_at = -math.inf
        self.permit_until = -math.inf
        self.permit_epoch = 0
        self.order: Order | None = None
        self.peers: dict[str, HeardReport] = {}
        self.following: str | None = None
        self.session = 0
        self.took_epoch = 0
        self.refused_by: str = ""
        self.heard_at: float | None = None
        self.heard_head = 0
        self.durable_at: dict[str, int] = {}
        self.pending: list[SimulatedBlock] = []
        self.in_flight = 0
        self.asked = 0
        self.locked = False
        self.handed: Holder | None = None
        self.kept_promise = 0  # what is promised, and true of the journal by now

    # -- clock

    def clock(self) -> float:
        """Its own clock."""
        return self._own_base + (self.world.now - self._true_base) * self._rate

    def set_base(self, reading: float) -> None:
        """Let its clock read this now; the clocks of two regions have nothing in common."""
        self._own_base, self._true_base = reading, self.world.now
        self.since = reading

    def set_rate(self, rate: float) -> None:
        """Let its clock run at this rate from now on."""
        self._own_base, self._true_base = self.clock(), self.world.now
        self._rate = rate

    # -- right to write

    @property
    def usable_until(self) -> float | None:
        """Up to when it may act as the lease's holder."""
        if self.grant is None:
            return None
        world = self.world
        return self.asked_at + world.ttl_seconds * (1 - world.clock_error) - world.margin_seconds

    @property
    def is_open(self) -> bool:
        """Whether a writer may be answered now."""
        return self.clock() < self.permit_until

    def permit(self, epoch: int) -> None:
        """Open the fence, or prolong it, for as long as the lease is usable."""
        until = self.usable_until
        if until is None or self.grant is None or self.grant.epoch != epoch:
            return
        self.permit_until = max(self.permit_until, until)
        self.permit_epoch = epoch
        if self.is_open:
            self.world.checks.opened(self)

    # -- data

    @property
    def head(self) -> SimulatedBlock | None:
        """The journal's last block."""
        return self.journal[-1] if self.journal else None

    @property
    def received(self) -> int:
        """How far it has durably, spool included."""
        return len(self.journal) + len(self.spool)

    @property
    def disk_fails(self) -> bool:
        """Whether a write to its disk fails now."""
        world = self.world
        return world.now < self.disk_full_until or (
            world.weather.disk_fails > 0 and world.dice.random() < world.weather.disk_fails
        )

    def settle(self, blocks: int) -> None:
        """Move so many blocks from the spool into the journal."""
        self.journal += self.spool[:blocks]
        del self.spool[:blocks]

    def cut(self, fork: int) -> None:
        """Rewind: only what was sealed may go."""
        self.world.checks.rewound(self, fork)
        del self.journal[fork:]
        self.spool = []
        self.applied, self.verified = min(self.applied, fork), min(self.verified, fork)

    @property
    def is_sealed(self) -> bool:
        """Whether all that it would lose by a rewind is sealed."""
        return self.seal is not None and (self.seal.done or tuple(self.journal[self.seal.fork :]) == self.seal.blocks)

    # -- what it says and sees

    def report(self) -> MemberReport:
        """Itself, for its peers."""
        memory, head = self.memory, self.head
        heard: float | None = None
        if self.is_open:
            heard = 0.0
        elif self.heard_at is not None and memory.half == "replica":
            heard = self.clock() - self.heard_at
        blocked = ""
        if memory.state in (RoleState.PAUSED, RoleState.REJOINING, RoleState.HALTED):
            blocked = f"it is {memory.state}"
        elif self.world.now < self.database_down_until:
            blocked = "the database is down"
        return MemberReport(
            region=self.name,
            state=memory.state,
            epoch=memory.epoch,
            promised=memory.promised if self.tells_promises_early else self.kept_promise,
            head_epoch=head.epoch if head else 0,
            sequence=len(self.journal),
            hash=head.what if head else "",
            applied=self.applied,
            verified=self.verified,
            open=self.is_open,
            priority=self.priority,
            blocked=blocked,
            heard_seconds=heard,
            heard_head=max(self.heard_head, len(self.journal)) if self.is_open else self.heard_head,
            led=memory.led,
        )

    def seen(self) -> Observation:
        """This moment, as it is decided from."""
        now, memory = self.clock(), self.memory
        if self.order is not None and now >= self.order.until:
            self.order = None
        return Observation(
            now=now,
            since=self.since,
            me=self.report(),
            lease=self.view,
            granted=None if self.grant is None else self.grant.epoch,
            usable_until=self.usable_until,
            peers=self.peers,
            order=self.order,
            following=self.following if self.took_epoch >= memory.promised else None,  # an old session takes nothing
            asked=self.asked == memory.epoch,
            diverged=bool(self.refused_by) and memory.half == "replica",
            settled=not self.spool,
            captured=self.in_flight == 0,
            sealed=memory.state is RoleState.REJOINING and self.is_sealed,
            rewound=memory.state is RoleState.REJOINING and self.seal is not None and self.seal.done,
        )
