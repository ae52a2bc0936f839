"""Whether a deployment is fit for a drill, and whether it is well again after one.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from replicator.errors import ConfigError, Unavailable
from replicator.ops.drills.observations import RegionObservation
from replicator.ops.drills.plan import DrillPlan
from replicator.ops.drills.stop_rules import stops

SETTLED = frozenset({"following", "paused"})


def check_fit(plan: DrillPlan, regions: Collection[str], latest: Mapping[str, RegionObservation]) -> str:
    """Who leads, if all is well and the plan is one for these regions. Raises ConfigError or Unavailable."""
    known = f"the regions are {', '.join(regions)}"
    for name in (*plan.target, *([plan.other] if plan.other else [])):
        if name not in regions:
            raise ConfigError("unknown_region", f"there is no region {name}", place="the plan's target", cure=known)
    for name in regions:
        if name not in latest or not latest[name].answers:
            cure = "start its sidecar, or correct the address: a drill begins with all well"
            raise Unavailable("not_fit", f"{name} does not answer", place="the regions", cure=cure)
    leading = [name for name, sight in latest.items() if sight.leads]
    if len(leading) != 1:
        told = "nobody takes writes" if not leading else f"{' and '.join(leading)} take writes"
        raise Unavailable("not_fit", told, place="the regions", cure="a drill begins with one primary")
    if plan.kind == "switchover" and plan.target[0] == leading[0]:
        cure = "name a region that follows"
        raise ConfigError("leads_already", f"{leading[0]} leads already", place="the plan's target", cure=cure)
    if reason := stops(plan.stop, latest, 0.0):
        raise Unavailable("not_fit", reason, place="[stop]", cure="wait until the regions have caught up")
    return leading[0]


def not_well(latest: Mapping[str, RegionObservation], slack_blocks: int) -> str:
    """Why the deployment is not as it should be; empty if it is. ``slack_blocks`` may be under way."""
    leading = [sight for sight in latest.values() if sight.leads]
    if len(leading) != 1:
        return f"{len(leading)} regions take writes"
    (leader,) = leading
    for name, sight in latest.items():
        if sight is leader:
            continue
        if sight.state not in SETTLED:
            return f"{name} is {sight.state}"
        if sight.sequence < leader.sequence - slack_blocks:
            return f"{name} is at block {sight.sequence}, {leader.region} at {leader.sequence}"
    return ""
