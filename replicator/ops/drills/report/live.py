"""The report of a drill on a running deployment, from what was observed and measured. Pure."""

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
from replicator.ops.drills.report.verdict import equal_regions, expected_change, outcome_of, target_reports
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
from replicator.ops.drills.rules.timeline import TimelineStep, spans, steps_of, verified_step


@dataclasses.dataclass(slots=True)
class DrillEvent:
    """Something that was done to the deployment. Its effect is looked for from ``at`` to ``until``; ``old`` led before
    it, ``new`` behind it."""

    name: str
    at: float
    until: float
    old: str | None
    new: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FinalRegion:
    """A region in the end. ``canaries`` are the numbers of those that it holds, None if that is not known; ``visible``
    the seconds that canaries took to be readable in it."""

    name: str
    url: str
    canaries: set[int] | None = None
    sequence: int | None = None
    position: str = ""
    compared: str = ""
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    visible: Sequence[float] = ()


def change_of(
    event: DrillEvent, plan: DrillPlan, observations: RegionObservations, canaries: Sequence[Canary]
) -> ChangeReport:
    """What an event led to. Its RTO is 0 where writers were never interrupted, None where nobody has written since."""
    gap = longest_gap(canaries, event.at, event.until)
    is_interrupted = is_interruption(gap, plan.canary.rate)
    new = event.new if event.new != event.old else None
    steps: list[TimelineStep] = []
    if plan.kind != "canary":
        name = "fault" if plan.fault is not None and event.name == "event" else "order"
        steps.append(TimelineStep(name, event.at, event.old or ""))
    write: Canary | None = None
    if new is not None:
        write = first_write(canaries, event.at, new)
        steps += steps_of(observations.entries, event.at, event.until, event.old, new)
    elif is_interrupted:
        write = first_write(canaries, gap.ended)
    if write is not None:
        steps.append(TimelineStep("first write", write.acked_at, write.region))
        if new is not None and (sequence := _sequence_of(write)) is not None:
            proven = verified_step(observations.verified, new, sequence, write.acked_at)
            steps += [] if proven is None else [proven]
    rto = None
    if write is not None:
        rto = write.acked_at - event.at
    elif new is None and not is_interrupted:
        rto = 0.0
    return ChangeReport(
        name=event.name,
        event_at=event.at,
        old=event.old,
        new=event.new,
        rto_seconds=rto,
        blocked_seconds=gap.seconds,
        steps=[StepReport(step=step.name, at=step.at, region=step.region, why=step.why) for step in steps],
    )


def _sequence_of(canary: Canary) -> int | None:
    """The sequence of a write; None where its ledger tells none."""
    try:
        return parse_position(canary.position).sequence if canary.position else None
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
        missing_blocks=None if end.canaries is None else missing(canaries, end.canaries, plan.canary.amount).blocks,
        compared=end.compared,
        digests=end.digests,
        visible_p50_seconds=None if visible is None else visible.p50,
        visible_p99_seconds=None if visible is None else visible.p99,
        visible_max_seconds=None if visible is None else visible.most,
    )


def report_of(
    heading: DrillHeading,
    plan: DrillPlan,
    observations: RegionObservations,
    events: Sequence[DrillEvent],
    canaries: Sequence[Canary],
    counts: CanaryReport,
    final_regions: Sequence[FinalRegion],
    *,
    leader: str | None,
    ended: float,
    stopped: str,
    failed: str,
    notes: Sequence[str],
) -> DrillReport:
    """The report of a drill on a running deployment."""
    changes = [change_of(event, plan, observations, canaries) for event in events]
    final = next((region for region in final_regions if region.name == leader), None)
    lost = None
    if final is not None and final.canaries is not None:
        lost = missing(canaries, final.canaries, plan.canary.amount)
    amounts: Mapping[str, float] | None = None if lost is None else {plan.canary.currency: lost.amount}
    rto = _rto(changes)
    blocked = max((change.blocked_seconds or 0.0 for change in changes), default=None)
    targets = target_reports(plan.targets, None if lost is None else lost.blocks, amounts, rto, blocked)
    targets += _common_targets(plan, events, final_regions)
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
        at_risk_blocks=observations.at_risk_blocks,
        at_risk_amounts=observations.at_risk_amounts,
        targets=targets,
        changes=changes,
        spans=[
            SpanReport(region=span.region, state=span.state, began_at=span.began, ended_at=span.ended)
            for span in spans(observations.entries, ended)
        ],
        regions=[region_of(region, plan, canaries) for region in final_regions],
        canaries=counts,
        notes=list(notes),
    )


def _rto(changes: Sequence[ChangeReport]) -> float | None:
    """The longest RTO of the changes; None if one of them has none, or there was no change."""
    if not changes or any(change.rto_seconds is None for change in changes):
        return None
    return max(change.rto_seconds or 0.0 for change in changes)


def _common_targets(
    plan: DrillPlan, events: Sequence[DrillEvent], final_regions: Sequence[FinalRegion]
) -> list[TargetReport]:
    """The targets that every drill has: equal regions, and the primary where the plan expects it."""
    targets = [equal_regions([region.compared for region in final_regions])]
    event = next((event for event in events if event.name == "event"), None)
    if event is not None:
        expected = expected_change(plan.expected, event.new is not None and event.new != event.old)
        targets += [] if expected is None else [expected]
    return targets
