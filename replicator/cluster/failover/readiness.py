"""Whether a region could be promoted now, and the one reason if not. Pure.

Being behind is no reason: who has the most is chosen, and what is missing is fetched or refused as a loss. A reason is
what would make a promoted region wrong, or unable to write.
"""

from __future__ import annotations

from replicator.cluster.failover.states import RoleState
from replicator.status.marks import StageCondition
from replicator.status.model import StrandState


def why_not(state: RoleState, strand: StrandState, unfit: str) -> str:
    """The reason, empty if it could be promoted. ``unfit`` is what its ledger itself says."""
    if unfit:
        return unfit
    if state is RoleState.PAUSED:
        return "paused by an operator: replicator resume"
    if state in (RoleState.REJOINING, RoleState.HALTED):
        return f"it is {state.value}"
    if strand.quarantined_statements:
        return f"{strand.quarantined_statements} statements are in quarantine: replicator quarantine"
    verify = strand.verify
    divergent = sum(verify.divergent_keys.values()) if verify is not None else 0
    if divergent:
        return f"{divergent} keys differ from the primary's: replicator repair"
    for stage in strand.progress.stages:
        if stage.name in ("settle", "apply") and stage.condition is StageCondition.HALTED and stage.trouble is not None:
            return f"{stage.name} halted: {stage.trouble.message}"
    return ""
