"""Whether a deployment is fit for a drill, when a drill has to stop itself, and whether all is well again behind it.

Guarantee: a drill begins only with one primary and every region answering. The stop rule looks at what is known now: a
region that does not answer is no reason by itself, because that may be what the drill is about; what is at risk because
of it is. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from replicator.errors import ConfigError, Unavailable
from replicator.ops.drills.rules.observations import RegionObservation, at_risk
from replicator.ops.drills.rules.plan import DrillPlan, StopRule

SETTLED = frozenset({"following", "paused"})


def check_fit(plan: DrillPlan, regions: Collection[str], latest: Mapping[str, RegionObservation]) -> str:
    """The region that leads, if all is well and the plan fits these regions. Raises ConfigError or Unavailable."""
    known = f"the regions are {', '.join(regions)}"
    for name in (*plan.target, *([plan.other] if plan.other else [])):
        if name not in regions:
            raise ConfigError("unknown_region", f"there is no region {name}", place="the plan's target", cure=known)
    for name in regions:
        if name not in latest or not latest[name].answers:
            cure = "start its sidecar, or correct the address: a drill begins with all well"
            raise Unavailable("not_fit", f"{name} does not answer", place="the regions", cure=cure)
    leading = [name for name, region in latest.items() if region.leads]
    if len(leading) != 1:
        message = "nobody takes writes" if not leading else f"{' and '.join(leading)} take writes"
        raise Unavailable("not_fit", message, place="the regions", cure="a drill begins with one primary")
    if plan.kind == "switchover" and plan.target[0] == leading[0]:
        cure = "name a region that follows"
        raise ConfigError("leads_already", f"{leading[0]} leads already", place="the plan's target", cure=cure)
    if reason := stop_reason(plan.stop, latest, 0.0):
        raise Unavailable("not_fit", reason, place="[stop]", cure="wait until the regions have caught up")
    return leading[0]


def stop_reason(rule: StopRule, latest: Mapping[str, RegionObservation], blocked_seconds: float) -> str:
    """Why the drill has to stop now; empty if it may go on."""
    risk = at_risk(latest)
    if rule.at_risk_blocks is not None and risk.blocks > rule.at_risk_blocks:
        return f"{risk.blocks:,} blocks are at risk, {rule.at_risk_blocks:,} may be"
    for currency, limit in rule.at_risk_amounts.items():
        if (amount := risk.amounts.get(currency, 0.0)) > limit:
            return f"{amount:,.2f} {currency} are at risk, {limit:,.2f} may be"
    if rule.lag_seconds is not None:
        for region in latest.values():
            if region.lag_seconds is not None and region.lag_seconds > rule.lag_seconds:
                return f"{region.region} is {region.lag_seconds:.1f} s behind, {rule.lag_seconds:g} s are allowed"
    if rule.blocked_seconds is not None and blocked_seconds > rule.blocked_seconds:
        return f"no write was acknowledged for {blocked_seconds:.1f} s, {rule.blocked_seconds:g} s are allowed"
    return ""


def not_well(latest: Mapping[str, RegionObservation], slack_blocks: int) -> str:
    """Why the deployment is not as it should be; empty if it is. ``slack_blocks`` may be under way."""
    leading = [region for region in latest.values() if region.leads]
    if len(leading) != 1:
        return f"{len(leading)} regions take writes"
    (leader,) = leading
    for name, region in latest.items():
        if region is leader:
            continue
        if region.state not in SETTLED:
            return f"{name} is {region.state}"
        if region.sequence < leader.sequence - slack_blocks:
            return f"{name} is at block {region.sequence}, {leader.region} at {leader.sequence}"
    return ""
