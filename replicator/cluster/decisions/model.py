"""What a decision is made from, and what can come of it. Values only.

``FailoverRules`` come from the configuration, ``DurableState`` is what this region keeps durably, ``Observation`` is
one moment's view of the world, ``MemberReport`` is what a region says of itself (to its peers, too). An ``Action`` is
something to do; whoever does it (``loop``, or the simulation) looks again afterwards, so an action that failed, or was
done twice, is harmless.

Times are seconds of one clock that also counts suspension, save where a name says otherwise. The types of a report's,
a memory's and an order's fields say what is taken from the wire and from files (``wire``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import Holder, LeaseView
from replicator.config.roles import Role
from replicator.format.json_fields import Count, Flag, Number, Text

Mode = Literal["manual", "automatic", "shadow"]
TableNames = Annotated[tuple[Text, ...], Field(max_length=1_000)]
Amounts = Annotated[Mapping[Text, Number], Field(max_length=100)]  # by table and currency


@dataclasses.dataclass(frozen=True, slots=True)
class FailoverRules:
    """How this region behaves. ``exclusive``: the lease store itself keeps two regions from holding the lease."""

    me: str
    regions: tuple[str, ...]
    mode: Mode = "manual"
    acknowledge: int = 0
    exclusive: bool = True
    suspect_seconds: float = 2.0  # the primary was not heard for so long
    quiet_seconds: float = 30.0  # after a change of primary nobody stands by itself for so long
    stand_seconds: float = 1.0  # each candidate waits so long behind a better one
    promise_seconds: float = 1.0  # so long those are waited for who do not promise
    verify_seconds: float = 2.0  # so long a promotion waits for the last blocks to be verified
    step_seconds: float = 30.0  # so long any other step of a promotion may take
    report_seconds: float = 1.5  # an older report of a peer says nothing of its present
    handover_blocks: int = 1_000  # a target that has so many blocks yet to apply is waited for before writers are
    max_lost_blocks: int = 0
    max_lost_amounts: Mapping[str, float] = dataclasses.field(default_factory=dict)  # by table
    rejoin: Literal["automatic", "manual"] = "automatic"

    @property
    def promises_needed(self) -> int:
        """So many regions, this one included, are certain to have among them one that has any acknowledged block: it is
        in the primary's journal and in those of ``acknowledge`` others."""
        return max(len(self.regions) - self.acknowledge, 1) if self.acknowledge else 1


@dataclasses.dataclass(frozen=True, slots=True)
class MemberReport:
    """A region, as it says. ``head_epoch`` and ``sequence`` are its journal's end, ``hash`` the hash there (hex).

    ``open`` is whether its applications may be writing, ``able`` whether they could be as soon as it has the lease: the
    store answers it, and so does its ledger. ``blocked`` is the one reason why it cannot be promoted, empty if it can.
    ``whole``: the ledger's first copy is durable in its journal; without it the region has nothing that could be led
    with, however long its chain is.
    ``heard_seconds`` is how long ago it last heard a region that may write (or began to listen); None: it knows that
    there is none. ``heard_head`` is the furthest that it has heard a primary to be, and ``at_risk`` what that primary
    last said would be lost with it, by table and currency (``losing``). ``distance_ms`` is how long an answer of the
    region takes that it follows, or followed last.
    """

    region: Text
    state: RoleState
    epoch: Count = 0
    promised: Count = 0
    head_epoch: Count = 0
    sequence: Count = 0
    hash: Text = ""
    applied: Count = 0
    verified: Count = 0
    open: Flag = False
    priority: Number = 0
    blocked: Text = ""
    heard_seconds: Number | None = None
    heard_head: Count = 0
    at_risk: Amounts = dataclasses.field(default_factory=dict)
    at_risk_unknown: Count = 0
    led: Count = 0
    able: Flag = True  # as a release says that knows no such field
    whole: Flag = True
    distance_ms: Count = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Who has more: chains compare by the epoch of their end, then by length."""
        return self.head_epoch, self.sequence


class HeardReport(NamedTuple):
    """A peer's report, and when it was heard."""

    report: MemberReport
    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What an operator, or the primary that hands over, wants. ``until`` (our clock) ends it."""

    verb: Literal["switchover", "failover", "take", "rejoin"]
    until: Number
    target: Text = ""
    instead_of: Holder | None = None  # take: the claim that is replaced
    sequence: Count = 0  # take: where the primary has closed
    allow_data_loss: Flag = False
    primary_is_fenced: Flag = False  # failover: a person's word that the old primary cannot write
    reason: Text = ""
    undo: TableNames = ()  # rejoin: the tables of which everything may go that only this region has


@dataclasses.dataclass(frozen=True, slots=True)
class DurableState:
    """What a region keeps durably. ``epoch`` is the newest that it claimed or followed, ``promised`` the oldest that it
    still takes blocks of, ``led`` the last in which it opened its fence; ``half`` is the role that its ledger is set up
    for. ``mine`` is the last epoch that was granted to this region with no other region's since it led. ``closed_at``
    is where a primary that hands over has closed, also in the memory of who takes over, and ``handed_to`` who that is.
    ``changed_at``: the primary changed then. ``approved``: a person lets it rejoin, and ``undo`` are the
    tables that he named for it. ``reopening``: a switchover is being called off."""

    state: RoleState
    half: Role
    epoch: Count = 0
    promised: Count = 0
    led: Count = 0
    mine: Count = 0
    closed_at: Count | None = None
    handed_to: Text = ""
    changed_at: Number | None = None
    approved: Flag = False
    undo: TableNames = ()
    reopening: Flag = False
    why: Text = ""


def first_state(role: Role, head_epoch: int) -> DurableState:
    """What a region begins with that has kept nothing: the configured ``role``, and the epoch of its journal's end."""
    if role == "primary":
        return DurableState(RoleState.DEMOTED, role, epoch=head_epoch, promised=head_epoch, led=head_epoch)
    return DurableState(RoleState.FOLLOWING, role, epoch=head_epoch, promised=head_epoch)


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """One moment. ``lease`` is None while the store does not answer. ``usable_until`` is up to when this region may act
    as holder of ``granted``; both None without a grant. ``since`` is when the present state was entered."""

    now: float
    since: float
    me: MemberReport
    lease: LeaseView | None = None
    lease_seconds: float = math.inf  # for so long the store has been answering
    granted: int | None = None
    usable_until: float | None = None
    peers: Mapping[str, HeardReport] = dataclasses.field(default_factory=dict)
    order: Order | None = None
    following: str | None = None
    polled: bool = True  # every peer was looked at since this process began; some may not have answered
    asked: bool = False  # every peer was asked to promise our epoch, and has answered, or could not be reached
    diverged: bool = False  # the region that is followed says that this chain is not its own
    settled: bool = True  # all that was received durably is in the journal
    captured: bool = True  # all that the ledger has committed is in the journal
    sealed: bool = False  # the orphans are sealed, or there are none
    rewound: bool = False
    stuck: str = ""  # what no retry cures in coming back

    @property
    def in_state(self) -> float:
        """How long the present state has lasted."""
        return self.now - self.since

    @property
    def holds(self) -> bool:
        """Whether this region may act as the lease's holder."""
        return self.usable_until is not None and self.now < self.usable_until

    @property
    def holder(self) -> Holder | None:
        """Who holds the lease, as far as is known now."""
        return None if self.lease is None else self.lease.holder

    def fresh(self, rules: FailoverRules) -> dict[str, MemberReport]:
        """What peers have said lately."""
        return {name: heard.report for name, heard in self.peers.items() if self.now - heard.at < rules.report_seconds}


# -- what can be done


class FollowRegion(NamedTuple):
    """Follow this region's feed, or nobody's."""

    region: str | None


class ClaimLease(NamedTuple):
    """Ask the store for the lease in this epoch."""

    epoch: int
    instead_of: Holder | None = None


class AskPromises(NamedTuple):
    """Have every peer promise to take nothing older than this epoch, and to say what it has."""

    epoch: int


class FetchBlocks(NamedTuple):
    """Get the blocks up to ``sequence`` that this peer has more."""

    region: str
    sequence: int


class VerifyApplied(NamedTuple):
    """Have what was applied verified at once."""


class Promote(NamedTuple):
    """Set the ledger up as primary of this epoch: its first block, sequences, source. The fence stays closed."""

    epoch: int


class OpenFence(NamedTuple):
    """Open the fence for as long as the lease is usable."""

    epoch: int


class CloseFence(NamedTuple):
    """Close the fence. ``moving``: writers are told to come back in a moment."""

    moving: bool = False


class HandOver(NamedTuple):
    """Tell the target to claim the lease in our place."""

    target: str
    sequence: int


class KeepLease(NamedTuple):
    """Make the target's claim in our place impossible, or learn that it has been made."""


class ReleaseLease(NamedTuple):
    """Give the lease back."""


class SealOrphans(NamedTuple):
    """Capture what the ledger still holds, find the fork with this region, seal the orphans."""

    region: str


class RewindToFork(NamedTuple):
    """Undo what is sealed, and become a replica."""


class ReportIntent(NamedTuple):
    """Say what would be done, and do nothing."""

    text: str


Action = (
    FollowRegion
    | ClaimLease
    | AskPromises
    | FetchBlocks
    | VerifyApplied
    | Promote
    | OpenFence
    | CloseFence
    | HandOver
    | KeepLease
    | ReleaseLease
    | SealOrphans
    | RewindToFork
    | ReportIntent
)
