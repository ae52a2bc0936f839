"""The report of a simulated drill: distributions over seeds, or the timeline of one, which is lived again for it.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

from replicator.ops.drills.report.form import (
    ChangeReport,
    DrillReport,
    SimulationReport,
    SpanReport,
    SpreadReport,
    StepReport,
    TargetReport,
    spread_report,
)
from replicator.ops.drills.report.heading import DrillHeading
from replicator.ops.drills.report.verdict import as_expected, judged, outcome_of
from replicator.ops.drills.rules.measures import spread
from replicator.ops.drills.rules.observations import TimelineEntry
from replicator.ops.drills.rules.plan import DrillPlan
from replicator.ops.drills.rules.timeline import spans
from replicator.ops.drills.simulation import (
    STATE_AFTER,
    SimulatedHistory,
    SimulationSetting,
    WatchedWorld,
    lived,
    schedule_of,
    world_of,
)

LISTED = 1_000
_STEPS = {
    "detected": "detection",
    "decided": "decision",
    "closed": "decision",
    "fenced": "fence",
    "drained": "drain",
    "promoted": "promote",
    "first_write": "first write",
}


def targets_of(plan: DrillPlan, one: SimulatedHistory) -> list[TargetReport]:
    """A seed against the plan's targets."""
    amounts = {plan.canary.currency: one.acknowledged_lost * plan.canary.amount}
    found = judged(plan.targets, one.acknowledged_lost, amounts, one.rto_seconds, one.blocked_seconds)
    expected = as_expected(plan.expected, one.changed)
    found += [] if expected is None else [expected]
    return [*found, _none("regions_equal", not one.converged), _none("laws_broken", bool(one.broken))]


def _none(name: str, is_wrong: bool) -> TargetReport:
    return TargetReport(name=name, target=0, measured=float(is_wrong), unit="times not so", met=not is_wrong)


def report_of(
    setting: SimulationSetting, heading: DrillHeading, found: Sequence[SimulatedHistory], seconds: float
) -> DrillReport:
    """The report over all seeds."""
    plan = setting.plan
    judgements = [targets_of(plan, one) for one in found]
    missed = [one.seed for one, targets in zip(found, judgements, strict=True) if not all(t.met for t in targets)]
    targets = _worst(judgements)
    changes, states = _timeline(setting, found[0].seed) if len(found) == 1 else ([], [])
    known = [one.rto_seconds for one in found if one.rto_seconds is not None]
    return DrillReport(
        **heading.fields(plan),
        way="simulation",
        seconds=seconds,
        outcome=outcome_of(targets, "", ""),
        why="; ".join(f"seed {one.seed}: {one.broken}" for one in found if one.broken)[:2_000],
        rpo_blocks=max(one.acknowledged_lost for one in found),
        rpo_amounts={plan.canary.currency: max(one.acknowledged_lost for one in found) * plan.canary.amount},
        rto_seconds=max(known) if len(known) == len(found) else None,
        blocked_seconds=max(one.blocked_seconds for one in found),
        targets=targets,
        changes=changes,
        spans=states,
        simulation=SimulationReport(
            seeds=len(found),
            first_seed=found[0].seed,
            seeds_per_second=len(found) / seconds,
            virtual_seconds=sum(one.virtual_seconds for one in found) / len(found),
            rto_seconds=_spread([(one.rto_seconds, one.seed) for one in found if one.rto_seconds is not None]),
            rpo_blocks=_spread([(float(one.acknowledged_lost), one.seed) for one in found]),
            lost_blocks=_spread([(float(one.lost_blocks), one.seed) for one in found]),
            blocked_seconds=_spread([(one.blocked_seconds, one.seed) for one in found]),
            not_converged=[one.seed for one in found if not one.converged][:LISTED],
            without_writer=[one.seed for one in found if not one.has_writer][:LISTED],
            missed=missed[:LISTED],
            missed_count=len(missed),
        ),
        seed=found[0].seed,
    )


def _spread(values: Sequence[tuple[float, int]]) -> SpreadReport | None:
    found = spread(value for value, _ in values)
    return None if found is None else spread_report(found, max(values, key=lambda pair: (pair[0], -pair[1]))[1])


def _worst(judgements: Sequence[list[TargetReport]]) -> list[TargetReport]:
    """Each target with the worst that any seed measured; not measured is worse than any value."""
    worst: dict[str, TargetReport] = {}
    for targets in judgements:
        for target in targets:
            known = worst.get(target.name)
            if known is None or _badness(target) > _badness(known):
                worst[target.name] = target
    return list(worst.values())


def _badness(target: TargetReport) -> tuple[bool, float]:
    return not target.met, float("inf") if target.measured is None else target.measured


# -- one seed


def _timeline(setting: SimulationSetting, seed: int) -> tuple[list[ChangeReport], list[SpanReport]]:
    """The changes of one seed's history, lived again."""
    world = world_of(setting, seed)
    found = lived(setting, seed, world)
    event_at, faults, until = schedule_of(setting, seed)
    back_at = next((fault.at for fault in faults[1:] if fault.kind == "switchover"), until)
    changes = [_change(world, "event", event_at, back_at, setting.first, found)]
    leader = changes[0].new
    if back_at < until and leader is not None and leader != setting.first:
        changes.append(_change(world, "back", back_at, until, leader, None))
    entries = [TimelineEntry(0.0, name, "demoted" if name == setting.first else "following") for name in world.regions]
    for one in world.events:
        state = STATE_AFTER.get(one.kind) or ("following" if one.kind == "restarted" else None)
        if state is not None and one.region in world.regions:
            entries.append(TimelineEntry(one.time, one.region, state))
    states = [
        SpanReport(region=span.region, state=span.state, began_at=span.began, ended_at=span.ended)
        for span in spans(entries, until)
    ]
    return changes, states


def _change(
    world: WatchedWorld, name: str, began: float, ended: float, old: str, found: SimulatedHistory | None
) -> ChangeReport:
    happened = [one for one in world.events if began <= one.time <= ended]
    promoted = next((one for one in happened if one.kind == "promoted" and one.region != old), None)
    new = old if promoted is None else promoted.region
    steps = [StepReport(step="fault" if name == "event" else "order", at=began, region=old)]
    if promoted is not None:
        seen: set[str] = set()
        for one in happened:
            step = _STEPS.get(one.kind)
            mine = one.region == new or one.kind in ("detected", "closed")
            if step is not None and mine and step not in seen and (one.time <= promoted.time or step == "first write"):
                seen.add(step)
                steps.append(StepReport(step=step, at=one.time, region=one.region, why=one.text))
    first = next((step.at for step in steps if step.step == "first write"), None)
    rto = found.rto_seconds if found is not None else None if first is None else first - began
    blocked = None if found is None else found.blocked_seconds
    return ChangeReport(
        name=name, event_at=began, old=old, new=new, rto_seconds=rto, blocked_seconds=blocked, steps=steps
    )
