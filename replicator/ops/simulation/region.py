"""One region: what its sidecar keeps on disk, what it knows, and what it says of itself.

As in the running sidecar: the memory, the grant (without the time it was asked for), the journal, the spool and what
is sealed are durable; the order, the view of the lease, the peers' reports, whom it follows and how far it has come
back end with the process, and so does the fence, which is the embedded ledger's.

What is calculated from these is calculated by the sidecar's own functions: the lease's usable end and the fence's
(``held_lease``), what is true of a promise (``promises``), how the primary is heard (``detector``).

    the feed ─▶ spool (durable: this is what K counts) ─▶ journal ─▶ applied ─▶ verified

Its tasks are in ``tasks``, its actions in ``doing``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from replicator.cluster.decisions.candidate import why_not_in
from replicator.cluster.decisions.detector import heard_seconds
from replicator.cluster.decisions.held_lease import HeldLease
from replicator.cluster.decisions.model import (
    DurableState,
    FailoverRules,
    HeardReport,
    MemberReport,
    Observation,
    Order,
)
from replicator.cluster.decisions.orders import present_order
from replicator.cluster.decisions.promises import FeedSession, kept_promise
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import Grant, Holder, LeaseView
from replicator.ops.simulation.chain import SimulatedBlock
from replicator.ops.simulation.schedule import Process
from replicator.ops.simulation.writers import Writers

if TYPE_CHECKING:
    from replicator.ops.simulation.world import World


class SealedOrphans(NamedTuple):
    """All that this region had behind ``fork`` is sealed. ``done``: it was rewound."""

    fork: int
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
        self.kept_grant: Any = None  # as it stands in the file
        self.sealed_ever: set[SimulatedBlock] = set()
        # its clock: true time runs through these two points
        self._rate, self._true_base, self._own_base = 1.0, 0.0, 1000.0
        # its troubles
        self.disk_full_until = self.database_down_until = self.slow_until = 0.0
        self.forget()

    def forget(self) -> None:
        """What a process that ends does not know any more."""
        self.since = self.clock()
        self.view: LeaseView | None = None
        self.held = HeldLease(self.world.clock_error, self.world.margin_seconds)
        self.held.grant = None if self.kept_grant is None else Grant.from_json(self.kept_grant)
        self.fence_until = -math.inf
        self.fence_epoch = 0
        self.order: Order | None = None
        self.peers: dict[str, HeardReport] = {}
        self.session = FeedSession()
        self.connection = 0  # what an earlier one still brings is dropped
        self.refused_by: str = ""
        self.began = self.clock()
        self.heard_at: float | None = None
        self.heard_head = 0
        self.in_flight = 0
        self.writers = self.new_writers() if self.memory.half == "primary" else None
        self.asked = 0
        self.locked = False
        self.handed: Holder | None = None
        self.seal: SealedOrphans | None = None

    def new_writers(self) -> Writers:
        """Another time as primary begins."""
        return Writers(self.rules.acknowledge, len(self.journal))

    # -- clock

    def clock(self) -> float:
        """Its own clock."""
        return self._own_base + (self.world.now - self._true_base) * self._rate

    def set_base(self, reading: float) -> None:
        """Let its clock read this now; the clocks of two regions have nothing in common."""
        self._own_base, self._true_base = reading, self.world.now
        self.since = self.began = reading

    def set_rate(self, rate: float) -> None:
        """Let its clock run at this rate from now on."""
        self._own_base, self._true_base = self.clock(), self.world.now
        self._rate = rate

    # -- right to write

    @property
    def is_open(self) -> bool:
        """Whether a writer may be answered now."""
        return self.clock() < self.fence_until

    def move_fence(self, seconds: float | None) -> None:
        """Open the fence, or prolong it, to so many seconds after its anchor; None leaves it as it is. The anchor was
        read at the same moment as the clock before the lease store was asked."""
        grant = self.held.grant
        if seconds is None or grant is None or grant.epoch < self.fence_epoch:
            return
        self.fence_until = max(self.fence_until, grant.asked_at + seconds)
        self.fence_epoch = grant.epoch
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

    def honours(self, epoch: int) -> bool:
        """Whether the feed's side keeps a promise of ``epoch``."""
        return self.session.honours(epoch, is_drained=not self.spool)

    # -- what it says and sees

    def report(self) -> MemberReport:
        """Itself, for its peers."""
        memory, head = self.memory, self.head
        now = self.clock()
        is_open = now < self.held.open_until
        heard, heard_head = self._heard(is_open, now)
        is_down = self.world.now < self.database_down_until
        return MemberReport(
            region=self.name,
            state=memory.state,
            epoch=memory.epoch,
            promised=kept_promise(memory, is_open=is_open, honours=self.honours(memory.promised)),
            head_epoch=head.epoch if head else 0,
            sequence=len(self.journal),
            hash=head.what if head else "",
            applied=self.applied,
            verified=self.verified,
            open=is_open,
            priority=self.priority,
            blocked="the database is down" if is_down else why_not_in(memory.state),
            heard_seconds=heard,
            heard_head=heard_head,
            led=memory.led,
        )

    def _heard(self, is_open: bool, now: float) -> tuple[float | None, int]:
        if is_open:
            return 0.0, len(self.journal)
        if self.memory.half == "primary":
            return None, 0
        feed_seconds = now - max(self.heard_at or self.began, self.began)
        return heard_seconds(feed_seconds, self.peers.get(self.session.region or ""), now), self.heard_head

    def seen(self) -> Observation:
        """This moment, as it is decided from."""
        now, memory, grant = self.clock(), self.memory, self.held.grant
        self.order = present_order(self.order, now)
        is_rejoining = memory.state is RoleState.REJOINING
        return Observation(
            now=now,
            since=self.since,
            me=self.report(),
            lease=self.view,
            granted=None if grant is None else grant.epoch,
            usable_until=self.held.usable_until,
            peers=self.peers,
            order=self.order,
            following=self.session.seen_in(memory.epoch),
            asked=self.asked == memory.epoch,
            diverged=bool(self.refused_by) and memory.half == "replica",
            settled=not self.spool,
            captured=self.in_flight == 0,
            sealed=is_rejoining and self.seal is not None,
            rewound=is_rejoining and self.seal is not None and self.seal.done,
        )
