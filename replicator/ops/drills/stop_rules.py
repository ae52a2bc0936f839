"""When a drill stops itself.

Guarantee: the rule looks at what is known now. A region that does not answer is no reason: that may be what the drill
is about; what is at risk because of it is.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicator.ops.drills.observations import RegionObservation, at_risk
from replicator.ops.drills.plan import StopRule


def stops(rule: StopRule, latest: Mapping[str, RegionObservation], blocked_seconds: float) -> str:
    """Why the drill has to stop now; empty if it may go on."""
    risk = at_risk(latest)
    if rule.at_risk_blocks is not None and risk.blocks > rule.at_risk_blocks:
        return f"{risk.blocks:,} blocks are at risk, {rule.at_risk_blocks:,} may be"
    for currency, limit in rule.at_risk_amounts.items():
        if (amount := risk.amounts.get(currency, 0.0)) > limit:
            return f"{amount:,.2f} {currency} are at risk, {limit:,.2f} may be"
    if rule.lag_seconds is not None:
        for sight in latest.values():
            if sight.lag_seconds is not None and sight.lag_seconds > rule.lag_seconds:
                return f"{sight.region} is {sight.lag_seconds:.1f} s behind, {rule.lag_seconds:g} s are allowed"
    if rule.blocked_seconds is not None and blocked_seconds > rule.blocked_seconds:
        return f"no write was acknowledged for {blocked_seconds:.1f} s, {rule.blocked_seconds:g} s are allowed"
    return ""
