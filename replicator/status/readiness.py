"""Whether a region is ready, what holds it up, and whether a region of the cluster could be promoted. Pure.

Guarantee: not ready always comes with one reason that names place and cure; a lag is always attributed to a stage.
"""

from __future__ import annotations

from typing import NamedTuple

from replicator.cluster.failover.status import FailoverView, MemberView
from replicator.errors import ReplicatorError, Unavailable
from replicator.status.marks import Lag, Mode, StageCondition, StageView, StrandView
from replicator.status.model import Snapshot, StrandState
from replicator.status.settle_view import GapView
from replicator.status.text import seconds_text

READY_LAG_SECONDS = 30.0
CALM_SECONDS = 1.5  # as old the primary's word may be, and go without saying
_SEVERITY = (StageCondition.HALTED, StageCondition.WAITING, StageCondition.STUCK)
_CAN_BE_PROMOTED = frozenset({"following", "suspecting", "demoted"})

# A region in these states holds rows that may be undone, or belong to nobody's epoch: it is for no reader. For each the
# error's reason, its message and its cure.
_NOT_READY = {
    "demoted": (
        "demoted",
        "it does not lead any more, and follows nobody yet",
        "it follows again by itself once there is a primary",
    ),
    "rejoining": (
        "rejoining",
        "it is coming back as a replica",
        "wait; replicator rejoin CONFIG if it waits for a person",
    ),
    "halted": (
        "role_halted",
        "it could not come back as a replica",
        "cure what it names, then replicator rejoin CONFIG",
    ),
}


class LagLimit(NamedTuple):
    """How far behind is still ready; None is no limit in that measure."""

    seconds: float | None = READY_LAG_SECONDS
    blocks: int | None = None


READY_LAG = LagLimit()


def blocked(snapshot: Snapshot, mode: Mode = "applied", limit: LagLimit = READY_LAG) -> ReplicatorError | None:
    """Why the region is not ready, or None if it is. The first strand that is not ready tells.

    Ready is: no stage is halted, and what is ``mode`` (applied or settled) lags by no more than ``limit``. A stage that
    waits does not end readiness by itself: the lag that grows from it does. A ledger that refuses writes is not ready.
    """
    if snapshot.failover is not None and (reason := unready(snapshot.failover)) is not None:
        return reason
    is_starting = snapshot.source is not None and snapshot.source.phase == "starting"
    if not snapshot.strands or is_starting:
        return _first_trouble(snapshot) or Unavailable(
            "starting", "the region is starting", place=f"region {snapshot.region}", cure="wait"
        )
    for state in snapshot.strands:
        if (reason := _blocked_strand(snapshot, state, mode, limit)) is not None:
            return reason
    return writes_refused(snapshot)


def _first_trouble(snapshot: Snapshot) -> ReplicatorError | None:
    stages = (stage for state in snapshot.strands for stage in state.progress.stages)
    return next((stage.trouble for stage in stages if stage.trouble is not None), None)


def unready(view: FailoverView) -> ReplicatorError | None:
    """Why a region is not ready because of its role, or None."""
    error = _NOT_READY.get(view.own.state)
    if error is None:
        return None
    reason, message, cure = error
    message += f": {view.why}" if view.why else ""
    return Unavailable(reason, message, place=f"region {view.own.region}", cure=cure)


def _blocked_strand(snapshot: Snapshot, state: StrandState, mode: Mode, limit: LagLimit) -> ReplicatorError | None:
    view = state.progress
    stages = [stage for stage in view.stages if mode == "applied" or stage.name != "apply"]
    for stage in stages:
        # However small the lag is still: it will only grow. What only waits may go on in a moment.
        if stage.condition is StageCondition.HALTED:
            return stage.trouble
    lag = view.applied_lag if mode == "applied" else view.settled_lag
    if not _is_beyond(lag, limit):
        return None
    waiting = next((stage for stage in stages if stage.condition is StageCondition.WAITING), None)
    if waiting is not None:
        return waiting.trouble
    if _is_copying(snapshot):
        cause, cure = lag_cause(snapshot, state), "wait until the copy is complete"
        return Unavailable("copying", cause, place=f"strand {view.strand}", cure=cure)
    return Unavailable(
        "not_heard" if lag.blocks is None else "behind",
        f"{_lag_text(lag)}; {lag_cause(snapshot, state)}",
        place=f"strand {view.strand}",
        cure="wait until it has caught up; if it does not get closer, look at the stage that is named",
    )


def _is_beyond(lag: Lag, limit: LagLimit) -> bool:
    # What is not known is beyond every limit: a region that has just started is sent no readers.
    if limit.seconds is not None and (lag.seconds is None or lag.seconds > limit.seconds):
        return True
    return limit.blocks is not None and (lag.blocks is None or lag.blocks > limit.blocks)


def _lag_text(lag: Lag) -> str:
    if lag.blocks is None and lag.seconds is None:
        return "how far behind is not known"
    if lag.blocks is None:
        return f"what was committed in the last {seconds_text(lag.seconds or 0.0)} is not known here"
    if lag.seconds is None:
        return f"{lag.blocks:,} blocks behind, for a time that is not known"
    if not lag.blocks:
        return f"what was committed in the last {seconds_text(lag.seconds)} may not be here"
    return f"{lag.blocks:,} blocks and {seconds_text(lag.seconds)} behind"


def lag_cause(snapshot: Snapshot, state: StrandState) -> str:
    """What holds the strand up, in one line for people."""
    view = state.progress
    stage = troubled_stage(view)
    if stage is not None and stage.trouble is not None:
        verb = "halted" if stage.condition is StageCondition.HALTED else "waits"
        return f"{stage.name} {verb}: {stage.trouble.message}"
    if _is_copying(snapshot):
        return f"the first copy is under way: {_copied(snapshot)}"
    # A gap comes before a full buffer, which it causes, and both before a stage that is stuck behind them.
    if state.settle is not None and state.settle.gaps:
        return _gap_text(state.settle.gaps)
    if state.settle is not None and state.settle.pressure:
        return f"the settle buffer is full ({state.settle.pressure}): the feed waits until there is room"
    held_up = snapshot.source.held_up if snapshot.source is not None else None
    if held_up and (stage is not None or view.end_to_end.blocks is None):
        return held_up
    if stage is not None:
        return stuck_text(stage)
    behind = max(view.stages, key=lambda stage: stage.lag.blocks or 0, default=None)
    if behind is not None and behind.lag.blocks:
        return f"{behind.name} is catching up, {behind.lag.blocks:,} blocks to go"
    return _calm_text(view) + (f"; but {held_up}" if held_up else "")


def _calm_text(view: StrandView) -> str:
    """Nothing here holds it up; but that says little where the primary's word is missing or old."""
    if view.end_to_end.blocks is None:
        if view.head is None:
            return "the primary has not been heard yet"
        if view.head_age_seconds is None:
            return "the primary has not said yet up to when it has read its ledger"
        return f"the primary read its ledger to the end {seconds_text(view.head_age_seconds)} ago, and not since"
    seconds = view.end_to_end.seconds
    if seconds is not None and seconds > CALM_SECONDS:
        return f"nothing that is known: what was committed up to {seconds_text(seconds)} ago is here"
    return "nothing: every stage is at the head"


def troubled_stage(view: StrandView) -> StageView | None:
    """The stage that needs attention most: halted before waiting before stuck; the first in the flow of those."""
    for condition in _SEVERITY:
        for stage in view.stages:
            if stage.condition is condition:
                return stage
    return None


def _gap_text(gaps: tuple[GapView, ...]) -> str:
    first = min(gaps, key=lambda gap: gap.first)
    missing = f"{first.first:,}" if first.first == first.last else f"{first.first:,} to {first.last:,}"
    return f"settle waits for {missing}, which did not come: {first.state}, for {seconds_text(first.age_seconds)}"


def _is_copying(snapshot: Snapshot) -> bool:
    return snapshot.source is not None and snapshot.source.phase == "copying"


def _copied(snapshot: Snapshot) -> str:
    assert snapshot.source is not None
    rows, estimate = snapshot.source.copied_rows, snapshot.source.copy_rows_estimate
    return f"{rows:,} rows" if not estimate else f"{rows:,} of about {estimate:,} rows"


def stuck_text(stage: StageView) -> str:
    """What a stage that stands still does not get on with."""
    if stage.lag.blocks:
        age = seconds_text(stage.progress_age_seconds)
        return f"{stage.name} is stuck: {stage.lag.blocks:,} blocks wait, no progress for {age}"
    silence = stage.heartbeat_age_seconds
    return f"{stage.name} is stuck: no heartbeat" + ("" if silence is None else f" for {seconds_text(silence)}")


def is_alone(snapshot: Snapshot) -> bool:
    """Whether a primary has written what no other region has, and no other region is there to take it."""
    if snapshot.role != "primary" or not any(state.at_risk_blocks for state in snapshot.strands):
        return False
    if snapshot.failover is not None:
        return all(peer.is_silent for peer in snapshot.failover.peers)
    return not snapshot.followers


def writes_refused(snapshot: Snapshot) -> ReplicatorError | None:
    """Why an embedded ledger commits nothing now, though it runs. A database takes its writes without its sidecar."""
    if snapshot.source is None or snapshot.source.kind != "embedded":
        return None
    stages = (stage for state in snapshot.strands for stage in state.progress.stages)
    return next((stage.trouble for stage in stages if stage.condition is StageCondition.WAITING), None)


def is_promotable(member: MemberView) -> bool:
    """Whether it leads, or could be promoted now."""
    return member.leads or (member.state in _CAN_BE_PROMOTED and not not_promotable(member))


def not_promotable(member: MemberView) -> str:
    """The one reason why a region could not be promoted now; empty if it could, or leads."""
    if not member.state:
        return "it has not answered yet"
    if member.is_silent:
        return f"it has not answered for {member.seen_age_seconds:.0f} s"
    if member.leads or member.blocked:
        return member.blocked
    return "" if member.state in _CAN_BE_PROMOTED else f"it is {member.state}"


def promotable_text(member: MemberView) -> str:
    """Whether a region could be promoted: ``leads``, ``yes``, or the one reason why not."""
    return "leads" if member.leads else not_promotable(member) or "yes"
