"""The report of a simulated drill: distributions over seeds, or the timeline of one, which is lived again for it.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

from replicator.cluster.decisions.states import TABLE
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
from replicator.ops.drills.report.verdict import expected_change, outcome_of, target_reports
from replicator.ops.drills.rules.measures import spread
from replicator.ops.drills.rules.observations import TimelineEntry
from replicator.ops.drills.rules.plan import DrillPlan
from replicator.ops.drills.rules.timeline import spans
from replicator.ops.drills.simulation import (
    SimulatedHistory,
    SimulationSetting,
    WatchedWorld,
    lived,
    schedule_of,
    world_of,
)

LISTED = 1_000
# The state of a region after an event of the simulation, as a running region would name it.
_STATES: dict[str, str] = {event.name.lower(): after.value for (_, event), after in TABLE.items()} | {
    "detected": "suspecting",
    "cleared": "following",
    "decided": "claiming",
    "fenced": "draining",
    "drained": "promoting",
    "promoted": "primary",
    "closed": "demoting",
    "reopened": "primary",
    "handed_over": "demoted",
    "region_loss": "away",
    "sidecar_crash": "away",
    "restarted": "following",
}
_STEPS = {
    "detected": "detection",
    "decided": "decision",
    "closed": "decision",
    "fenced": "fence",
    "drained": "drain",
    "promoted": "promote",
    "first_write": "first write",
}


def targets_of(plan: DrillPlan, history: SimulatedHistory) -> list[TargetReport]:
    """The plan's targets with what a seed measured; besides, it has to converge and to break no law."""
    amounts = {plan.canary.currency: history.acknowledged_lost * plan.canary.amount}
    reports = target_reports(
        plan.targets, history.acknowledged_lost, amounts, history.rto_seconds, history.blocked_seconds
    )
    expected = expected_change(plan.expected, history.changed)
    reports += [] if expected is None else [expected]
    return [*reports, _none("regions_equal", not history.converged), _none("laws_broken", bool(history.broken))]


def _none(name: str, is_wrong: bool) -> TargetReport:
    return TargetReport(name=name, target=0, measured=float(is_wrong), unit="times not so", met=not is_wrong)


def report_of(
    setting: SimulationSetting, heading: DrillHeading, histories: Sequence[SimulatedHistory], seconds: float
) -> DrillReport:
    """The report over all seeds."""
    plan = setting.plan
    judgements = [targets_of(plan, history) for history in histories]
    judged = zip(histories, judgements, strict=True)
    missed = [history.seed for history, targets in judged if not all(target.met for target in targets)]
    targets = _worst(judgements)
    changes, states = _timeline(setting, histories[0].seed) if len(histories) == 1 else ([], [])
    rtos = [(history.rto_seconds, history.seed) for history in histories if history.rto_seconds is not None]
    rpo_blocks = max(history.acknowledged_lost for history in histories)
    return DrillReport(
        **heading.fields(plan),
        way="simulation",
        seconds=seconds,
        outcome=outcome_of(targets, "", ""),
        why="; ".join(f"seed {history.seed}: {history.broken}" for history in histories if history.broken)[:2_000],
        rpo_blocks=rpo_blocks,
        rpo_amounts={plan.canary.currency: rpo_blocks * plan.canary.amount},
        rto_seconds=max(rtos)[0] if len(rtos) == len(histories) else None,
        blocked_seconds=max(history.blocked_seconds for history in histories),
        targets=targets,
        changes=changes,
        spans=states,
        simulation=SimulationReport(
            seeds=len(histories),
            first_seed=histories[0].seed,
            seeds_per_second=len(histories) / seconds,
            virtual_seconds=sum(history.virtual_seconds for history in histories) / len(histories),
            rto_seconds=_spread(rtos),
            rpo_blocks=_spread([(float(history.acknowledged_lost), history.seed) for history in histories]),
            lost_blocks=_spread([(float(history.lost_blocks), history.seed) for history in histories]),
            blocked_seconds=_spread([(history.blocked_seconds, history.seed) for history in histories]),
            not_converged=[history.seed for history in histories if not history.converged][:LISTED],
            without_writer=[history.seed for history in histories if not history.has_writer][:LISTED],
            missed=missed[:LISTED],
            missed_count=len(missed),
        ),
        seed=histories[0].seed,
    )


def _spread(values: Sequence[tuple[float, int]]) -> SpreadReport | None:
    worst_first = sorted(values, key=lambda pair: (-pair[0], pair[1]))  # of equal values the first seed
    return spread_report(spread(value for value, _ in values), worst_first[0][1] if values else None)


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
    history = lived(setting, seed, world)
    event_at, faults, until = schedule_of(setting, seed)
    back_at = next((fault.at for fault in faults[1:] if fault.kind == "switchover"), until)
    changes = [_change(world, "event", event_at, back_at, setting.first, history)]
    leader = changes[0].new
    if back_at < until and leader is not None and leader != setting.first:
        changes.append(_change(world, "back", back_at, until, leader, None))
    entries = [TimelineEntry(0.0, name, "demoted" if name == setting.first else "following") for name in world.regions]
    for event in world.events:
        state = _STATES.get(event.kind)
        if state is not None and event.region in world.regions:
            entries.append(TimelineEntry(event.time, event.region, state))
    states = [
        SpanReport(region=span.region, state=span.state, began_at=span.began, ended_at=span.ended)
        for span in spans(entries, until)
    ]
    return changes, states


def _change(
    world: WatchedWorld, name: str, began: float, ended: float, old: str, history: SimulatedHistory | None
) -> ChangeReport:
    events = [event for event in world.events if began <= event.time <= ended]
    promoted = next((event for event in events if event.kind == "promoted" and event.region != old), None)
    new = old if promoted is None else promoted.region
    steps = [StepReport(step="fault" if name == "event" else "order", at=began, region=old)]
    if promoted is not None:
        known: set[str] = set()
        for event in events:
            step = _STEPS.get(event.kind)
            concerns = event.region == new or event.kind in ("detected", "closed")
            in_time = event.time <= promoted.time or step == "first write"
            if step is not None and concerns and in_time and step not in known:
                known.add(step)
                steps.append(StepReport(step=step, at=event.time, region=event.region, why=event.text))
    first = next((step.at for step in steps if step.step == "first write"), None)
    rto = history.rto_seconds if history is not None else None if first is None else first - began
    blocked = None if history is None else history.blocked_seconds
    return ChangeReport(
        name=name, event_at=began, old=old, new=new, rto_seconds=rto, blocked_seconds=blocked, steps=steps
    )
