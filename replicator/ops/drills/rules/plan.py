"""What a drill is to do, as a file in TOML says it. ``config/drills`` has one of each kind.

Guarantee: a plan is whole and consistent, or refused with the line and the cure. Durations are seconds in here; a
field's alias is its key in the file.

    canary            nothing is broken: writes and reads through the whole path are measured
    switchover        a planned change of the primary, and back
    rehearsal         a fork of a standby is promoted and thrown away; production is not touched
    region_loss       partition      slow_link      sidecar_crash
    database_crash    disk_full      clock_skew     lease_store_loss
                      a failure, brought about by the commands of [fault], or in the simulation

What keeps two drills from each other is in ``undo_log``, what keeps the deployment from a plan that asks too much in
``safety``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints

from replicator.config.checks import Problem
from replicator.config.models import Identifier, Name, Section
from replicator.config.units import Duration, Secret
from replicator.status.model import DrillKind

Expect = Literal["failover", "no_failover", "either"]

KINDS: tuple[DrillKind, ...] = get_args(DrillKind)
WITHOUT_FAULT: frozenset[DrillKind] = frozenset({"canary", "switchover", "rehearsal"})
NEEDS_TARGET: frozenset[DrillKind] = frozenset(KINDS) - {"canary", "lease_store_loss"}
LIVE_ONLY: frozenset[DrillKind] = frozenset({"canary", "rehearsal"})  # there is nothing in them for a simulation
DURATION_LIMIT_SECONDS = 6 * 3600.0

_EXPECT: dict[DrillKind, Expect] = {"region_loss": "failover", "canary": "no_failover"}

Word = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
Program = Annotated[tuple[Word, ...], Field(min_length=1, max_length=256)]
NotNegative = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,16}$")]


def _one_or_more(value: object) -> object:
    """``"tokyo"`` is one region, ``["paris", "tokyo"]`` are two."""
    return (value,) if isinstance(value, str) else value


def _one_or_more_programs(value: object) -> object:
    """``["kill", "1"]`` is one program, ``[["kill", "1"], ["kill", "2"]]`` are two."""
    return [value] if isinstance(value, list) and value and all(isinstance(word, str) for word in value) else value


Programs = Annotated[tuple[Program, ...], BeforeValidator(_one_or_more_programs), Field(max_length=32)]
Regions = Annotated[tuple[Name, ...], BeforeValidator(_one_or_more), Field(max_length=64)]


class CanaryPlan(Section):
    """The writes that measure: ``rate`` of them a second, into a table of their own."""

    table: Identifier = "replicator_canary"
    rate: Annotated[float, Field(gt=0, le=200)] = 20.0
    amount: Amount = 1.0
    currency: Currency = "EUR"
    attempt_seconds: Duration = Field(default=2.0, alias="attempt")
    dsn: dict[Name, Secret] = Field(default_factory=dict)


class DrillTargets(Section):
    """What has to be reached; what is not named is measured and not judged."""

    rpo_blocks: NotNegative | None = None
    rto_seconds: Duration | None = Field(default=None, alias="rto")
    max_blocked_seconds: Duration | None = Field(default=None, alias="max_blocked")
    amounts: dict[Currency, Amount] = Field(default_factory=dict)


class StopRule(Section):
    """When a drill stops itself and undoes what it did."""

    at_risk_blocks: NotNegative | None = None
    at_risk_amounts: dict[Currency, Amount] = Field(default_factory=dict)
    lag_seconds: Duration | None = Field(default=None, alias="lag")
    blocked_seconds: Duration | None = Field(default=120.0, alias="blocked")


class FaultCommands(Section):
    """The commands that bring a failure about and undo it. They run as they are, without a shell; ``undo`` may run more
    than once, and after ``inject`` was interrupted anywhere."""

    inject: Annotated[Programs, Field(min_length=1)]
    undo: Programs = ()
    timeout_seconds: Duration = Field(default=30.0, alias="timeout")


class StepLimits(Section):
    """How long the steps of a drill may take, and who decides on a failover."""

    steady_seconds: Duration = Field(default=3.0, alias="steady")
    change_seconds: Duration = Field(default=60.0, alias="change")
    recover_seconds: Duration = Field(default=300.0, alias="recover")
    failover: Literal["automatic", "ordered"] = "automatic"
    allow_data_loss: bool = False
    primary_is_fenced: bool = False


class RehearsalPlan(Section):
    """Where a fork is made. ``scratch`` is a server's dsn for forks of PostgreSQL; its database is made and dropped."""

    scratch: Secret | None = None
    writes: Annotated[int, Field(gt=0, le=100_000, strict=True)] = 100
    rows_per_second: Annotated[int, Field(gt=0, lt=2**53, strict=True)] | None = None


class DrillPlan(Section):
    """One drill."""

    kind: DrillKind
    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")] = ""
    target: Regions = ()
    other: Name | None = None
    duration_seconds: Duration = Field(default=10.0, alias="duration")
    one_way: bool = False
    back: bool = True
    expect: Expect | None = None
    delay_seconds: Duration | None = Field(default=None, alias="delay")
    canary: CanaryPlan = CanaryPlan()
    targets: DrillTargets = DrillTargets()
    stop: StopRule = StopRule()
    fault: FaultCommands | None = None
    steps: StepLimits = StepLimits()
    rehearsal: RehearsalPlan = RehearsalPlan()

    @property
    def expected(self) -> Expect:
        """Whether another region has to take over."""
        return self.expect or ("failover" if self.kind == "switchover" else _EXPECT.get(self.kind, "either"))

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name or self.kind.replace("_", " ")


def problems(plan: DrillPlan) -> Iterator[Problem]:
    """What does not fit together in a plan."""
    if plan.kind in NEEDS_TARGET and not plan.target:
        yield Problem(("target",), f"a {plan.kind} is of a region", 'name it: target = "tokyo"')
    if plan.kind in ("switchover", "rehearsal") and len(plan.target) > 1:
        yield Problem(("target",), f"a {plan.kind} has one target", "name one region")
    if plan.kind in WITHOUT_FAULT and plan.fault is not None:
        yield Problem(("fault",), f"a {plan.kind} breaks nothing", "remove [fault]")
    if plan.one_way and plan.kind != "partition":
        yield Problem(("one_way",), "only a partition is one-way", "remove it")
    if plan.other is not None and plan.kind not in ("partition", "slow_link"):
        yield Problem(("other",), "only a link has another end", "remove it")
    if plan.other is not None and plan.other in plan.target:
        yield Problem(("other",), "both ends of the link are one region", "name the region at the other end")
    if plan.duration_seconds > DURATION_LIMIT_SECONDS:
        yield Problem(("duration",), "a drill lasts six hours at most", "make it shorter")
    if plan.steps.failover == "ordered" and len(plan.target) < 2 and plan.other is None:
        cure = 'name the failing region, then the one that is to take over: target = ["paris", "tokyo"]'
        yield Problem(("steps", "failover"), "nobody is named who is to take over", cure)


def takes_over(plan: DrillPlan) -> str | None:
    """The region that an ordered failover goes to."""
    return plan.target[1] if len(plan.target) > 1 else plan.other


def may_take_over(plan: DrillPlan, regions: Iterable[str], leader: str) -> list[str]:
    """The regions in which canaries have to be possible before the event: all of which one will lead, and of those that
    perhaps will the ones whose database the plan names."""
    if plan.kind == "switchover":
        return [plan.target[0]]
    if plan.steps.failover == "ordered" and (target := takes_over(plan)) is not None:
        return [target]
    others = [name for name in regions if name != leader]
    if plan.expected == "failover":
        return others
    return [name for name in others if name in plan.canary.dsn] if plan.expected == "either" else []
