"""What a lease is, and what its holder may rely on.

A lease is the time-limited right to be primary of one strand in one epoch. It lives in a store outside of the region,
which counts its time and lets it end by itself. Here is the protocol that every store is written against, and the one
calculation that keeps two primaries apart.

Guarantee asked of every kind (``tests/contracts/test_lease.py`` runs on each):

1. At most one holder at a time, by the store's clock. A claim is one atomic step.
2. The highest epoch that was ever granted only grows: it outlives holders, restarts and the death of the store.
3. A grant that was taken over, has ended or was released cannot be renewed: ``renew`` raises ``LeaseLost``, for ever.
4. Whoever does not get an answer in time gets Unavailable; then the step may have been done or not. ``look`` shows it,
   and a claim by the same region with the same epoch finds its own grant again.

Guarantee of ``usable_until``: the holder stops before the store can give the lease to anybody else. Its time is counted
from the moment *before* the request was sent, on the holder's own clock, less what the clocks may differ in rate.

Not here: when to claim and renew (``failover/``), and stopping the writers (``fencing/``).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import BaseModel, Field, Strict, StrictStr, ValidationError

from replicator.errors import Corrupt, Rejected
from replicator.format.json_fields import Count, Text, first_problem

Clock = Callable[[], float]
Epoch = Annotated[int, Strict(), Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
NEVER = -math.inf  # the ``asked_at`` of a grant that is not proven: its time is over already
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Seconds since the machine started, those included in which it was suspended.

    ``time.monotonic`` stands still while a machine sleeps or a virtual machine is paused; the lease store's clock does
    not. Whoever woke up by such a clock would believe its lease to be fresh, and write beside its successor.
    """
    return time.clock_gettime(_BOOT_CLOCK)


class Holder(NamedTuple):
    """Who holds it. ``token`` is opaque: it changes with each claim and each ``keep_mine``, not with renewals."""

    region: Text
    epoch: Count
    token: Text


class LeaseView(NamedTuple):
    """What the store said. ``epoch`` is the highest that was ever granted in the strand; 0: none."""

    holder: Holder | None
    epoch: int


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """A lease that was given to this region.

    ``asked_at``: the holder's clock before the request of the last successful claim or renewal was sent.
    ``lease_id``: what the store knows the grant by. ``ttl_seconds``: ``math.inf`` for one that does not end.
    """

    strand: str
    region: str
    epoch: int
    token: str
    lease_id: str
    asked_at: float
    ttl_seconds: float

    @property
    def holder(self) -> Holder:
        """The grant as the others see it."""
        return Holder(self.region, self.epoch, self.token)

    def as_json(self) -> dict[str, Any]:
        """For a file, so that a sidecar that is restarted takes its lease up again. ``asked_at`` is not in it: a time
        read from a file may be of another boot. A grant that was read is over until ``renew`` has proven it."""
        fields = dataclasses.asdict(self)
        del fields["asked_at"]
        return {**fields, "ttl_seconds": None if math.isinf(self.ttl_seconds) else self.ttl_seconds}

    @classmethod
    def from_json(cls, fields: object) -> Grant:
        """The grant of ``as_json``, unproven. Raises Corrupt for anything else."""
        try:
            stored = _StoredGrant.model_validate(fields)
        except ValidationError as error:
            raise Corrupt("bad_grant", f"this is no grant of a lease: {first_problem(error)}") from None
        return cls(**{**stored.model_dump(), "ttl_seconds": stored.seconds, "asked_at": NEVER})


class _StoredGrant(BaseModel):
    """A grant as it stands in a file. ``ttl_seconds`` is null for one that does not end."""

    strand: StrictStr
    region: StrictStr
    epoch: Epoch
    token: StrictStr
    lease_id: StrictStr
    ttl_seconds: Seconds | None

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return math.inf if self.ttl_seconds is None else self.ttl_seconds


def usable_until(grant: Grant, clock_error: float, margin_seconds: float) -> float:
    """The reading of the holder's clock at which it must have stopped to write. Pure.

    ``clock_error`` bounds the difference of the two clocks' rates: while the store's clock counts one second, the
    holder's counts at least ``1 - clock_error``. ``margin_seconds`` is what stopping itself may take.
    """
    if grant.asked_at == NEVER:
        return NEVER
    # The store began to count after ``asked_at``. While it counts the ttl, our clock may count less, by as much as the
    # rates differ; what stopping takes comes off at the end.
    return grant.asked_at + grant.ttl_seconds * (1 - clock_error) - margin_seconds


class LeaseLost(Rejected):
    """The lease is not this region's. ``holder`` has it, None if nobody does; ``epoch`` is the highest ever granted."""

    def __init__(self, message: str, view: LeaseView, *, place: str = "", cure: str = "") -> None:
        super().__init__("lease_lost", message, status=409, place=place, cure=cure)
        self.holder, self.epoch = view

    @property
    def view(self) -> LeaseView:
        """The lease as it was found instead: its holder and the highest epoch."""
        return LeaseView(self.holder, self.epoch)


class Lease(Protocol):
    """The lease of one strand. One task uses it at a time for claims and renewals; anybody may look.

    Every method raises Unavailable if the store does not answer within a third of ``ttl_seconds``, and Halted if the
    store refuses this region's credentials or holds what no region has written.
    """

    @property
    def ttl_seconds(self) -> float:
        """How long a grant is asked for."""

    @property
    def exclusive(self) -> bool:
        """Whether the store itself keeps two regions from holding the lease. False: only a person does."""

    async def look(self) -> LeaseView:
        """The present state, not an older one."""

    async def check(self) -> None:
        """Return if the store could grant a claim now. It may answer questions, and renew, when it cannot: a store
        that is full does."""

    async def claim(self, region: str, epoch: int, instead_of: Holder | None = None) -> Grant:
        """Take the lease if nobody holds it, or exactly ``instead_of`` does, and ``epoch`` was never granted.

        Raises LeaseLost if it is not so. The same region's claim of the epoch that it holds is given its grant again.
        """

    async def renew(self, grant: Grant) -> Grant:
        """The grant with its time begun anew, and with its present token. Raises LeaseLost."""

    async def keep_mine(self, grant: Grant) -> Grant:
        """The grant with a new token: a claim instead of the earlier one fails from now on. Raises LeaseLost, if one
        was first. Its time is not renewed."""

    async def release(self, grant: Grant) -> None:
        """Let go of it: there is no holder, the epoch stays. Nothing happens if it is not this grant's any more."""

    async def aclose(self) -> None:
        """Close the connections. The lease stays."""


def is_held_by(view: LeaseView | None, region: str) -> bool:
    """Whether that region is known to hold the lease."""
    return view is not None and view.holder is not None and view.holder.region == region


def may_claim(view: LeaseView, region: str, epoch: int, instead_of: Holder | None, place: str) -> None:
    """Raise LeaseLost unless a claim may be granted in this state. Pure."""
    # By the token: a holder that has called its offer back (``keep_mine``) has the same region and epoch as before.
    if view.holder is not None and (instead_of is None or view.holder.token != instead_of.token):
        message = f"{view.holder.region} holds the lease in epoch {view.holder.epoch}"
        raise LeaseLost(
            message,
            view,
            place=place,
            cure="wait for its end, or ask its holder for it (replicator switchover CONFIG --to REGION)",
        )
    if epoch <= view.epoch:  # also where nobody holds it: an epoch is one time of ownership
        message = f"epoch {epoch} cannot be granted to {region}: {view.epoch} was granted already"
        raise LeaseLost(message, view, place=place, cure="claim with a higher epoch")


def epoch_of(value: object) -> int:
    """An epoch that was read. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError("an epoch is a number that is not below zero")
    return value
