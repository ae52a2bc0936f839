"""One region: what its sidecar keeps on disk, what it knows, and what it says of itself.

As in the running sidecar: the memory, the grant (without the time it was asked for), the journal, the spool and what
is sealed are durable; the order, the view of the lease, the peers' reports, whom it follows and how far it has come
back end with the process, and so does the fence, which is the embedded ledger's.

What is calculated from these is calculated by the sidecar's own functions: the lease's usable end and the fence's
(``held_lease``), what is true of a promise (``promises``), how the primary is heard (``detector``).

    the feed ─▶ spool (durable: this is what K counts) ─▶ journal ─▶ applied ─▶ verified

Its tasks are in ``tasks``, its decisions in ``controller``, its actions in ``executor``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from replicator.cluster.decisions.candidate import why_not_in, why_not_without_copy
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
from replicator.cluster.decisions.states import RoleEvent, RoleState
from replicator.cluster.decisions.step import Decision
from replicator.cluster.leases.base import Grant, Holder, LeaseView
from replicator.ops.simulation.chain import SimulatedBlock
from replicator.ops.simulation.network import Network
from replicator.ops.simulation.schedule import Process, Reply, Task
from replicator.ops.simulation.store import LeaseStore
from replicator.ops.simulation.weather import Weather
from replicator.ops.simulation.writers import Writers

_KINDS = {
    RoleEvent.SUSPECT: "detected",
    RoleEvent.CLEAR: "cleared",
    RoleEvent.STAND: "decided",
    RoleEvent.FENCED: "fenced",
    RoleEvent.DRAINED: "drained",
    RoleEvent.PROMOTED: "promoted",
    RoleEvent.HAND_OVER: "closed",
    RoleEvent.REOPEN: "reopened",
    RoleEvent.HANDED_OVER: "handed_over",
}


COPY = "copy"
DECIDE, PULL, FLOW = "decide", "pull", "flow"  # tasks that sleep


class SealedOrphans(NamedTuple):
    """All that this region had behind ``fork`` is sealed. ``done``: it was rewound."""

    fork: int
    done: bool = False


class SimulatedRegion(Process):
    """A region of the simulated world."""

    def __init__(self, world: Cluster, rules: FailoverRules, memory: DurableState, priority: int) -> None:
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
        self.disk_full_until = self.database_down_until = self.slow_until = self.source_halted_until = 0.0
        self.forget()

    def forget(self) -> None:
        """What a process that ends does not know any more."""
        self.since = self.clock()
        self.view: LeaseView | None = None
        self.view_since = self.clock()
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
        self._sleeps: dict[str, Reply] = {}  # of its tasks, each by name

    def new_writers(self) -> Writers:
        """Another time as primary begins."""
        return Writers(self.rules.acknowledge, len(self.journal))

    # -- sleep

    def sleep(self, task: str, seconds: float) -> Task:
        """Sleep for so long, or until somebody wakes this task."""
        if not self.world.weather.pace.wakes:
            yield seconds
            return
        woken = self._sleeps[task] = Reply(self.world.now + seconds)
        self.world.at(woken.limit, woken.give, None)
        yield woken

    def wake(self, task: str) -> None:
        """Something has changed that this task looks at. Not before the present step is done."""
        woken = self._sleeps.pop(task, None)
        if woken is not None:
            self.world.at(self.world.now, woken.give, None)

    def look_again(self) -> None:
        """Something has changed that a decision may hang on."""
        self.wake(DECIDE)

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
            self.world.laws.opened(self)

    # -- data

    @property
    def is_database_down(self) -> bool:
        """Whether its ledger gives no anchor now, and cannot be opened."""
        return self.world.now < self.database_down_until

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
        self.world.laws.rewound(self, fork)
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
            able=self.view is not None and not self.is_database_down,
            priority=self.priority,
            blocked=self._blocked(),
            heard_seconds=heard,
            heard_head=heard_head,
            led=memory.led,
            whole=self.is_whole,
        )

    @property
    def is_whole(self) -> bool:
        """Whether the ledger's first copy is in its journal; it is where there is none to be made."""
        return not self.world.copier or any(block.what.endswith(COPY) for block in self.journal)

    def _blocked(self) -> str:
        is_copying = self.world.now >= self.source_halted_until
        if not self.is_whole and (reason := why_not_without_copy(self.memory.half, "", is_copying=is_copying)):
            return reason
        return "the database is down" if self.is_database_down else why_not_in(self.memory.state)

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
            lease_seconds=0.0 if self.view is None else now - self.view_since,
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


class Laws(Protocol):
    """Who is told of each event that could break a law; ``checks`` raises where one does."""

    def opened(self, region: SimulatedRegion) -> None:
        """A fence is opened, or prolonged."""

    def appended(self, block: SimulatedBlock) -> None:
        """A primary has made a block."""

    def answers(self, region: SimulatedRegion, block: SimulatedBlock) -> None:
        """A writer is answered."""

    def remembers(self, region: SimulatedRegion, memory: DurableState) -> None:
        """A durable state is written."""

    def decided(self, region: SimulatedRegion, step: Decision) -> None:
        """A region has decided on a step."""

    def ordered(self, region: SimulatedRegion, order: Order) -> None:
        """An order is taken."""

    def stands(self, region: SimulatedRegion) -> None:
        """A region decides to stand."""

    def granted(self, region: SimulatedRegion) -> None:
        """A region has got the lease that it stood for."""

    def rewound(self, region: SimulatedRegion, fork: int) -> None:
        """A journal is cut."""


Decide = Callable[[DurableState, Observation, FailoverRules], Decision]


class Cluster(Network):
    """Regions that share a network and a lease store: all that a region's tasks see of the world. ``laws`` are told of
    what happens; ``decide`` and ``promise`` are the sidecar's own, or a mutant's."""

    laws: Laws
    decide: Decide
    promise: Callable[[DurableState, int], DurableState]

    def __init__(
        self,
        seed: int,
        weather: Weather,
        ttl_seconds: float,
        clock_error: float,
        margin_seconds: float,
        *,
        traced: bool,
    ) -> None:
        super().__init__(seed, weather, LeaseStore(ttl_seconds))
        self.ttl_seconds, self.clock_error, self.margin_seconds = ttl_seconds, clock_error, margin_seconds
        self.regions: dict[str, SimulatedRegion] = {}
        self.addresses = self.regions
        self.outside = Process()
        self.is_quiet = False
        self.copier = ""  # whose ledger held something before its changes were followed; "": there was nothing
        self.copy_seconds = 0.0
        self.decisions = 0
        self.made: list[SimulatedBlock] = []
        self._traced = traced

    def append(self, region: SimulatedRegion, epoch: int, what: str) -> SimulatedBlock:
        """A primary commits a block."""
        block = SimulatedBlock(len(region.journal) + 1, epoch, region.head, f"{region.name}{len(self.made)}{what}")
        region.journal.append(block)
        self.laws.appended(block)
        self.made.append(block)
        for follower in self.regions.values():
            if follower.session.region == region.name:
                follower.wake(PULL)
        return block

    def answered(self, region: SimulatedRegion, block: SimulatedBlock) -> None:
        """A writer has its answer."""

    def happened(self, region: SimulatedRegion, event: RoleEvent, why: str) -> None:
        """A region changed its state."""
        self.note(region.name, _KINDS.get(event, event.name.lower()), why)

    def note(self, region: str, kind: str, text: str) -> None:
        """Keep what happened, and show it if somebody reads along."""
        super().note(region, kind, text)
        if self._traced:
            self._show(region, kind, text)

    def is_converged(self) -> bool:
        """One region leads, all others follow it and have what it has."""
        leaders = [region for region in self.regions.values() if region.memory.state is RoleState.PRIMARY]
        if len(leaders) != 1 or not leaders[0].is_open:
            return False
        leader = leaders[0]
        for region in self.regions.values():
            if region is leader:
                continue
            if (
                region.memory.state is not RoleState.FOLLOWING
                or region.session.region != leader.name
                or region.refused_by
            ):
                return False
            if region.spool or region.journal != leader.journal or region.applied != len(leader.journal):
                return False
        return True

    def trace(self, region: SimulatedRegion, kind: str, text: str) -> None:
        """Show it, if somebody reads along."""
        if self._traced:
            self._show(region.name, kind, text)

    def _show(self, name: str, kind: str, text: str) -> None:
        region = self.regions.get(name)
        state = (
            ""
            if region is None
            else (f"{region.memory.state} e{region.memory.epoch} p{region.memory.promised} {len(region.journal)}")
        )
        print(f"{self.now:9.3f}  {name:12} {state:26} {kind:12} {text}")
