"""From what was seen and measured to the report. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from replicator.format.position import parse_position
from replicator.ops.drills.measures import Canary, Spread, first_write, is_interruption, longest_gap, missing, spread
from replicator.ops.drills.observations import RegionObservations
from replicator.ops.drills.plan import DrillPlan
from replicator.ops.drills.result import (
    CanaryReport,
    ChangeReport,
    DrillReport,
    RegionReport,
    SpanReport,
    SpreadReport,
    StepReport,
    TargetReport,
)
from replicator.ops.drills.timeline import TimelineStep, first_write_step, spans, steps_of, verified_step
from replicator.ops.drills.verdict import as_expected, equal_regions, judged, outcome_of


@dataclasses.dataclass(frozen=True, slots=True)
class DrillHeading:
    """What a report says of the drill itself."""

    id: str
    plan: dict[str, object]
    fingerprint: str
    versions: dict[str, str]
    began: str


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


def canaries_of(begun: int, not_sent: int, acknowledged: Sequence[Canary]) -> CanaryReport:
    """The canaries' part."""
    return CanaryReport(
        written=begun,
        acknowledged=len(acknowledged),
        unanswered=begun - len(acknowledged),
        not_sent=not_sent,
        wait_seconds=spread_report(spread(c.acked_at - c.sent_at for c in acknowledged)),
    )


def spread_report(found: Spread | None, max_seed: int | None = None) -> SpreadReport | None:
    """A distribution's part."""
    if found is None:
        return None
    return SpreadReport(count=found.number, p50=found.p50, p99=found.p99, max=found.most, max_seed=max_seed)


def report_of(
    about: DrillHeading,
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
        id=about.id,
        kind=plan.kind,
        name=plan.title,
        way="live",
        began=about.began,
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
        plan=about.plan,
        config_fingerprint=about.fingerprint,
        versions=about.versions,
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
