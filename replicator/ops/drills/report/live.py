"""From what was seen and measured to the report. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from replicator.format.position import parse_position
from replicator.ops.drills.report.form import (
    CanaryReport,
    ChangeReport,
    DrillReport,
    RegionReport,
    SpanReport,
    StepReport,
    TargetReport,
)
from replicator.ops.drills.report.heading import DrillHeading
from replicator.ops.drills.report.verdict import as_expected, equal_regions, judged, outcome_of
from replicator.ops.drills.rules.measures import (
    Canary,
    first_write,
    is_interruption,
    longest_gap,
    missing,
    spread,
)
from replicator.ops.drills.rules.observations import RegionObservations
from replicator.ops.drills.rules.plan import DrillPlan
from replicator.ops.drills.rules.timeline import TimelineStep, first_write_step, spans, steps_of, verified_step


@dataclasses.dataclass(slots=True)
class DrillEvent:
    """Something that was done to the deployment: when, up to when its effect is looked for, and who led then."""

    name: str
    at: float
    until: float
    old: str | None
    new: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FinalRegion:
    """A region in the end; ``there``: the canaries that it holds, None if that is not known."""

    name: str
    url: str
    there: set[int] | None = None
    sequence: int | None = None
    position: str = ""
    compared: str = ""
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    visible: Sequence[float] = ()


def change_of(
    event: DrillEvent, plan: DrillPlan, sights: RegionObservations, canaries: Sequence[Canary]
) -> ChangeReport:
    """What an event led to."""
    rate = plan.canary.rate
    gap = longest_gap(canaries, event.at, event.until)
    steps = [
        TimelineStep(
            "fault" if plan.fault is not None and event.name == "event" else "order", event.at, event.old or ""
        )
    ]
    if plan.kind == "canary":
        steps = []
    changed = event.new is not None and event.new != event.old
    write: Canary | None = None
    if changed:
        assert event.new is not None
        write = first_write(canaries, event.at, event.new)
        steps += steps_of(sights.entries, event.at, event.until, event.old, event.new)
    elif is_interruption(gap, rate):
        write = first_write(canaries, gap.ended)
    if (step := first_write_step(write)) is not None:
        steps.append(step)
        if changed and event.new is not None and (sequence := _sequence_of(write)) is not None:
            proven = verified_step(sights.verified, event.new, sequence, step.at)
            steps += [] if proven is None else [proven]
    rto = None if changed else 0.0
    if write is not None:
        rto = write.acked_at - event.at
    elif is_interruption(gap, rate):
        rto = None  # nobody has written since
    return ChangeReport(
        name=event.name,
        event_at=event.at,
        old=event.old,
        new=event.new,
        rto_seconds=rto,
        blocked_seconds=gap.seconds,
        steps=[StepReport(step=one.name, at=one.at, region=one.region, why=one.why) for one in steps],
    )


def _sequence_of(canary: Canary | None) -> int | None:
    """The sequence of a write; None where its ledger tells none."""
    try:
        return None if canary is None or not canary.position else parse_position(canary.position).sequence
    except ValueError:
        return None


def region_of(end: FinalRegion, plan: DrillPlan, canaries: Sequence[Canary]) -> RegionReport:
    """A region's part of the report."""
    visible = spread(end.visible)
    return RegionReport(
        region=end.name,
        url=end.url,
        sequence=end.sequence,
        position=end.position,
        missing_blocks=None if end.there is None else missing(canaries, end.there, plan.canary.amount).blocks,
        compared=end.compared,
        digests=end.digests,
        visible_p50_seconds=None if visible is None else visible.p50,
        visible_p99_seconds=None if visible is None else visible.p99,
        visible_max_seconds=None if visible is None else visible.most,
    )


def report_of(
    heading: DrillHeading,
    plan: DrillPlan,
    sights: RegionObservations,
    events: Sequence[DrillEvent],
    canaries: Sequence[Canary],
    counts: CanaryReport,
    ends: Sequence[FinalRegion],
    *,
    leader: str | None,
    ended: float,
    stopped: str,
    failed: str,
    notes: Sequence[str],
) -> DrillReport:
    """The report of a drill on a running deployment."""
    changes = [change_of(event, plan, sights, canaries) for event in events]
    final = next((end for end in ends if end.name == leader), None)
    lost = None
    if final is not None and final.there is not None:
        lost = missing(canaries, final.there, plan.canary.amount)
    amounts: Mapping[str, float] | None = None if lost is None else {plan.canary.currency: lost.amount}
    rto = _rto(changes)
    blocked = max((change.blocked_seconds or 0.0 for change in changes), default=None)
    targets = judged(plan.targets, None if lost is None else lost.blocks, amounts, rto, blocked)
    targets += _deployment(plan, events, ends)
    return DrillReport(
        **heading.fields(plan),
        way="live",
        seconds=ended,
        outcome=outcome_of(targets, stopped, failed),
        why=failed or stopped,
        rpo_blocks=None if lost is None else lost.blocks,
        rpo_amounts=dict(amounts or {}),
        rto_seconds=rto,
        blocked_seconds=blocked,
        at_risk_blocks=sights.at_risk_blocks,
        at_risk_amounts=sights.at_risk_amounts,
        targets=targets,
        changes=changes,
        spans=[
            SpanReport(region=one.region, state=one.state, began_at=one.began, ended_at=one.ended)
            for one in spans(sights.entries, ended)
        ],
        regions=[region_of(end, plan, canaries) for end in ends],
        canaries=counts,
        notes=list(notes),
    )


def _rto(changes: Sequence[ChangeReport]) -> float | None:
    """The longest; None if one of them was not reached, or there was none."""
    if not changes or any(change.rto_seconds is None for change in changes):
        return None
    return max(change.rto_seconds or 0.0 for change in changes)


def _deployment(plan: DrillPlan, events: Sequence[DrillEvent], ends: Sequence[FinalRegion]) -> list[TargetReport]:
    """What every drill has to leave behind: equal regions, and the primary where the plan wants it."""
    found = [equal_regions([end.compared for end in ends])]
    event = next((one for one in events if one.name == "event"), None)
    if event is not None:
        expected = as_expected(plan.expected, event.new is not None and event.new != event.old)
        found += [] if expected is None else [expected]
    return found
