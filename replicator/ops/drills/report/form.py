"""The documented form of ``report.json``.

``replicator drill --schema`` prints its JSON Schema. ``format`` is the version of the form: it grows when a field
changes its meaning or goes; fields may be added without that. Times ``*_at`` are seconds since ``began`` (RFC 3339),
durations are seconds. What was not measured is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from replicator.ops.drills.rules.measures import Canary, Spread, spread
from replicator.status.model import DrillOutcome


class ReportPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StepReport(ReportPart):
    """A step of a change of the primary, when it was done and in which region."""

    step: str
    at: float
    region: str
    why: str = ""


class ChangeReport(ReportPart):
    """An event and what it led to: the fault (or order) itself, the way back, or the return of what was broken."""

    name: str = Field(description="event, back")
    event_at: float
    old: str | None = Field(default=None, description="who led before")
    new: str | None = Field(default=None, description="who led after")
    rto_seconds: float | None = Field(default=None, description="from the event to the first acknowledged write")
    blocked_seconds: float | None = Field(default=None, description="longest time without an acknowledged write")
    steps: list[StepReport] = []


class SpanReport(ReportPart):
    """A time in which a region was in one state."""

    region: str
    state: str
    began_at: float
    ended_at: float


class RegionReport(ReportPart):
    """A region in the end: what it misses of the acknowledged canaries, and the digests of its tables. ``compared``:
    equal, divergent, reference (the others were compared with it), or why it could not be compared."""

    region: str
    url: str = ""
    sequence: int | None = None
    position: str = ""
    missing_blocks: int | None = None
    compared: str = ""
    digests: dict[str, str] = {}
    visible_p50_seconds: float | None = Field(default=None, description="from acknowledged to readable here")
    visible_p99_seconds: float | None = None
    visible_max_seconds: float | None = None


class SpreadReport(ReportPart):
    """A distribution, by nearest rank; ``max_seed`` is the seed of the maximum, in a simulation."""

    count: int
    p50: float
    p99: float
    max: float
    max_seed: int | None = None


class CanaryReport(ReportPart):
    """The canaries: how many were begun and acknowledged, and how long a writer waited for its answer."""

    written: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    not_sent: int = Field(default=0, description="too many were waiting already")
    wait_seconds: SpreadReport | None = None


class TargetReport(ReportPart):
    """A target, what was measured, and whether it was met. What was not measured is not met."""

    name: str
    target: float
    measured: float | None
    unit: str
    met: bool


class SimulationReport(ReportPart):
    """Seeds of the simulation: how many, how fast, how RTO and RPO are spread, and which missed a target."""

    seeds: int
    first_seed: int
    seeds_per_second: float
    virtual_seconds: float
    rto_seconds: SpreadReport | None = None
    rpo_blocks: SpreadReport | None = Field(default=None, description="acknowledged, and lost")
    lost_blocks: SpreadReport | None = Field(
        default=None, description="written, acknowledged or not, and not carried on"
    )
    blocked_seconds: SpreadReport | None = None
    not_converged: list[int] = []
    without_writer: list[int] = Field(default=[], description="seeds in which nobody led in the end")
    missed: list[int] = Field(default=[], description="the first seeds that missed a target; replay one with --seed")
    missed_count: int = 0


class DrillReport(ReportPart):
    """The whole report."""

    format: Literal[1] = 1
    id: str
    kind: str
    name: str
    way: Literal["live", "rehearsal", "simulation"]
    began: str
    seconds: float
    outcome: DrillOutcome
    why: str = Field(default="", description="why it was stopped or failed; what is left to do")
    rpo_blocks: int | None = Field(default=None, description="acknowledged canaries that are missing in the end")
    rpo_amounts: dict[str, float] = Field(default={}, description="the same in amounts, by currency")
    rto_seconds: float | None = None
    blocked_seconds: float | None = Field(default=None, description="the longest of all changes")
    at_risk_blocks: int | None = Field(default=None, description="the most that was at risk at a time")
    at_risk_amounts: dict[str, float] = {}
    targets: list[TargetReport] = []
    changes: list[ChangeReport] = []
    spans: list[SpanReport] = []
    regions: list[RegionReport] = []
    canaries: CanaryReport | None = None
    simulation: SimulationReport | None = None
    notes: list[str] = []
    plan: dict[str, Any] = {}
    config_fingerprint: str = Field(default="", description="SHA-256 over the canonical configuration without secrets")
    seed: int | None = None
    versions: dict[str, str] = {}


def exit_code(outcome: DrillOutcome) -> int:
    """The command line's exit code: 0 targets met, 1 missed, 3 stopped or failed on the way."""
    return {"passed": 0, "missed": 1, "stopped": 3, "failed": 3}[outcome]


def summary(report: DrillReport, who: str) -> dict[str, Any]:
    """What the regions are told of a report (POST /v1/drills): without what was not measured."""
    fields: dict[str, Any] = {
        "id": report.id,
        "kind": report.kind,
        "name": report.name,
        "outcome": report.outcome,
        "seconds": float(report.seconds),
        "who": who,
        "rto_seconds": report.rto_seconds,
        "rpo_blocks": None if report.rpo_blocks is None else float(report.rpo_blocks),
        "blocked_seconds": report.blocked_seconds,
    }
    return {name: value for name, value in fields.items() if value is not None}


def canary_report(begun: int, not_sent: int, acknowledged: Sequence[Canary]) -> CanaryReport:
    """The canaries of a drill, of which ``begun`` were sent and ``not_sent`` left out because too many waited."""
    return CanaryReport(
        written=begun,
        acknowledged=len(acknowledged),
        unanswered=begun - len(acknowledged),
        not_sent=not_sent,
        wait_seconds=spread_report(spread(c.acked_at - c.sent_at for c in acknowledged)),
    )


def spread_report(distribution: Spread | None, max_seed: int | None = None) -> SpreadReport | None:
    """A distribution; None of nothing."""
    if distribution is None:
        return None
    return SpreadReport(
        count=distribution.number,
        p50=distribution.p50,
        p99=distribution.p99,
        max=distribution.most,
        max_seed=max_seed,
    )
