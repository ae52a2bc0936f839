"""What a snapshot means: is the region ready, what holds it up, and the status as JSON. Pure.

Guarantee: not ready always comes with one reason that names place and cure; a lag is always attributed to a stage.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

from replicator.errors import ReplicatorError, Unavailable
from replicator.pipeline.acknowledge.view import AcknowledgeView
from replicator.pipeline.sources.base import SourceReport
from replicator.status.failover import failover_json, members_json, unready
from replicator.status.marks import MARKS, Lag, Mode, StageCondition, StageView, StrandView
from replicator.status.model import JournalView, RegionEvent, Snapshot, StrandState
from replicator.status.settle_view import GapView
from replicator.storage.journal.regions import KnownRegion
from replicator.verify.view import VerifyView

READY_LAG_SECONDS = 30.0
_SEVERITY = (StageCondition.HALTED, StageCondition.WAITING, StageCondition.STUCK)


class LagLimit(NamedTuple):
    """How far behind is still ready; None is no limit in that measure."""

    seconds: float | None = READY_LAG_SECONDS
    blocks: int | None = None


READY_LAG = LagLimit()
QUARANTINE_CURE = "replicator quarantine says why; cure that, then replicator quarantine replay"


def blocked(snapshot: Snapshot, mode: Mode = "applied", limit: LagLimit = READY_LAG) -> ReplicatorError | None:
    """Why the region is not ready, or None if it is. The first strand that is not ready tells.

    Ready is: no stage is halted, and what is ``mode`` (applied or settled) lags by no more than ``limit``. A stage that
    waits does not end readiness by itself: the lag that grows from it does.
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
    return None


def _first_trouble(snapshot: Snapshot) -> ReplicatorError | None:
    stages = (stage for state in snapshot.strands for stage in state.progress.stages)
    return next((stage.trouble for stage in stages if stage.trouble is not None), None)


def _blocked_strand(snapshot: Snapshot, state: StrandState, mode: Mode, limit: LagLimit) -> ReplicatorError | None:
    view = state.progress
    stages = [stage for stage in view.stages if mode == "applied" or stage.name != "apply"]
    for stage in stages:
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
    if lag.blocks is None:
        return True
    if limit.seconds is not None and (lag.seconds is None or lag.seconds > limit.seconds):
        return True
    return limit.blocks is not None and lag.blocks > limit.blocks


def troubled_stage(view: StrandView) -> StageView | None:
    """The stage that needs attention most: halted before waiting before stuck; the first in the flow of those."""
    for condition in _SEVERITY:
        for stage in view.stages:
            if stage.condition is condition:
                return stage
    return None


def lag_cause(snapshot: Snapshot, state: StrandState) -> str:
    """What holds the strand up, in one line for people."""
    view = state.progress
    stage = troubled_stage(view)
    if stage is not None and stage.trouble is not None:
        verb = "halted" if stage.condition is StageCondition.HALTED else "waits"
        return f"{stage.name} {verb}: {stage.trouble.message}"
    if _is_copying(snapshot):
        return f"the first copy is under way: {_copied(snapshot)}"
    if state.settle is not None and state.settle.gaps:
        return _gap_text(state.settle.gaps)
    if state.settle is not None and state.settle.pressure:
        return f"the settle buffer is full ({state.settle.pressure}): the feed waits until there is room"
    if stage is not None:
        return _stuck_text(stage)
    behind = max(view.stages, key=lambda stage: stage.lag.blocks or 0, default=None)
    if behind is not None and behind.lag.blocks:
        return f"{behind.name} is catching up, {behind.lag.blocks:,} blocks to go"
    if view.end_to_end.blocks is None:
        return "the primary has not been heard yet"
    return "nothing: every stage is at the head"


def _gap_text(gaps: tuple[GapView, ...]) -> str:
    first = min(gaps, key=lambda gap: gap.first)
    missing = f"{first.first:,}" if first.first == first.last else f"{first.first:,} to {first.last:,}"
    return f"settle waits for {missing}, which did not come: {first.state}, for {seconds_text(first.age_seconds)}"


def _is_copying(snapshot: Snapshot) -> bool:
    return snapshot.source is not None and snapshot.source.phase == "copying"


def _stuck_text(stage: StageView) -> str:
    if stage.lag.blocks:
        age = seconds_text(stage.progress_age_seconds)
        return f"{stage.name} is stuck: {stage.lag.blocks:,} blocks wait, no progress for {age}"
    silence = stage.heartbeat_age_seconds
    return f"{stage.name} is stuck: no heartbeat" + ("" if silence is None else f" for {seconds_text(silence)}")


def _copied(snapshot: Snapshot) -> str:
    assert snapshot.source is not None
    rows, estimate = snapshot.source.copied_rows, snapshot.source.copy_rows_estimate
    return f"{rows:,} rows" if not estimate else f"{rows:,} of about {estimate:,} rows"


def quarantine_text(statements: int, keys: Mapping[str, int]) -> str:
    """What is set aside and what waits behind it, in one line for people."""
    count = "1 statement is" if statements == 1 else f"{statements:,} statements are"
    names = {0: "no key that is known", 1: "1 key"}
    tables = ", ".join(f"{table} ({names.get(number, f'{number:,} keys')})" for table, number in keys.items())
    return f"{count} set aside, and readers do not see what {'it does' if statements == 1 else 'they do'}: {tables}"


def _lag_text(lag: Lag) -> str:
    if lag.blocks is None:
        return "how far behind is not known"
    if lag.seconds is None:
        return f"{lag.blocks:,} blocks behind, for a time that is not known"
    return f"{lag.blocks:,} blocks and {seconds_text(lag.seconds)} behind"


def seconds_text(seconds: float) -> str:
    """A duration for people: ``0.0 s``, ``40 ms``, ``3.2 s``, ``5 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, name, smaller, smaller_name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // smaller} {smaller_name}"
    raise AssertionError("60 seconds and more are minutes")


def drill_text(kind: str, outcome: str, age_seconds: float, rto_seconds: float | None) -> str:
    """The last drill of a kind, in one line for people."""
    rto = "" if rto_seconds is None else f", RTO {seconds_text(rto_seconds)}"
    return f"{kind.replace('_', ' ')}: {outcome} {seconds_text(age_seconds)} ago{rto}"


def time_text(at_us: int) -> str:
    """RFC 3339 in UTC. Times that no calendar has read as 1970 or the year 9999."""
    bounded = min(max(at_us, 0), 253_402_300_799_999_999)
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=bounded)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def status_json(snapshot: Snapshot) -> dict[str, Any]:
    """The whole status, as ``/v1/status`` and ``replicator status --json`` give it."""
    reason = blocked(snapshot)
    return {
        "region": snapshot.region,
        "role": snapshot.role,
        "version": snapshot.version,
        "at": time_text(snapshot.at_us),
        "uptime_seconds": round(snapshot.uptime_seconds, 3),
        "ready": reason is None,
        "blocked": None if reason is None else reason.as_json(),
        "primary": snapshot.primary_url,
        "source": None if snapshot.source is None else _source_json(snapshot.source),
        "replica": None if snapshot.replica is None else _fields(snapshot.replica),
        "followers": [_fields(follower) for follower in snapshot.followers],
        "drills": [_fields(drill) for drill in snapshot.drills],
        "strands": [_strand_json(snapshot, state) for state in snapshot.strands],
        **({} if snapshot.failover is None else {"failover": failover_json(snapshot.failover)}),
    }


def _source_json(report: SourceReport) -> dict[str, Any]:
    fields = _fields(report)
    del fields["heard_at"]  # by a clock that means nothing outside; the stages have their ages
    return fields


def _strand_json(snapshot: Snapshot, state: StrandState) -> dict[str, Any]:
    view = state.progress
    return {
        "strand": view.strand,
        "epoch": state.epoch,
        "position": None if state.position is None else str(state.position),
        "head": None if view.head is None else {"sequence": view.head.sequence, "age_seconds": view.head_age_seconds},
        "marks": {name: None if (mark := view.marks[name]) is None else mark.sequence for name in MARKS},
        "lag": {**_lag_json(view.end_to_end), "cause": lag_cause(snapshot, state)},
        "settled_lag": _lag_json(view.settled_lag),
        "stages": [_stage_json(stage) for stage in view.stages],
        "settle": None if state.settle is None else _settle_json(state),
        "journal": None if state.journal is None else _journal_json(state.journal),
        "acknowledge": None if state.acknowledge is None else _acknowledge_json(state.acknowledge),
        "at_risk": None if state.at_risk_blocks is None else _at_risk_json(state),
        "applied_blocks": state.applied_blocks,
        "quarantined_statements": state.quarantined_statements,
        "verify": None if state.verify is None else _verify_json(state.verify),
        "held_keys": dict(state.held_keys),
        "regressions": view.regressions,
        "resets": list(view.resets),
    }


def _stage_json(stage: StageView) -> dict[str, Any]:
    trouble = None
    if stage.trouble is not None:
        trouble = {**stage.trouble.as_json(), "since_seconds": stage.trouble_age_seconds}
    return {
        "stage": stage.name,
        "condition": stage.condition.value,
        "lag": _lag_json(stage.lag),
        "progress_age_seconds": stage.progress_age_seconds,
        "heartbeat_age_seconds": stage.heartbeat_age_seconds,
        "trouble": trouble,
    }


def _settle_json(state: StrandState) -> dict[str, Any]:
    assert state.settle is not None
    fields = _fields(state.settle)
    fields["gaps"] = [_fields(gap) for gap in state.settle.gaps]
    del fields["lateness"], fields["lateness_seconds"]  # a histogram is for /metrics
    return fields


def _journal_json(journal: JournalView) -> dict[str, Any]:
    hold = journal.report.held_by
    shown: dict[str, Any] = {}
    for name, value in _fields(journal.report).items():
        match name:
            case "oldest_at":
                shown["oldest_age_seconds"] = journal.oldest_age_seconds
            case "held_by":
                who, sequence = (None, None) if hold is None else (hold.who, hold.sequence)
                shown |= {"held_by": who, "held_at": sequence}
            case _:
                shown[name] = value
    regions = [_known_region_json(region, journal) for region in journal.regions]
    return {**shown, "lost": list(journal.report.lost), "regions": regions, "summary": journal_text(journal)}


def _known_region_json(region: KnownRegion, journal: JournalView) -> dict[str, Any]:
    return {
        "region": region.name,
        "sequence": region.sequence,
        "reported_age_seconds": region.reported_age_seconds(journal.at_us),
        "state": region.state(journal.report.begins_behind),
    }


def journal_text(journal: JournalView) -> str:
    """How much is kept, and what holds back what should go, in one line for people."""
    report, age = journal.report, journal.oldest_age_seconds
    size = f"{report.bytes / 1e6:,.1f} MB from sequence {report.begins_behind + 1:,}"
    words = [size + ("" if age is None else f", up to {seconds_text(max(age, 0.0))} old")]
    if report.lost:
        words.append(f"its budget was used up: {', '.join(report.lost)} must be made anew, or forgotten")
    if (hold := report.held_by) is not None:
        words.append(f"more should go; held back by {hold.who}, which is at sequence {hold.sequence:,}")
    if report.trouble:
        words.append(f"it cannot be pruned: {report.trouble}")
    return "; ".join(words)


def _acknowledge_json(view: AcknowledgeView) -> dict[str, Any]:
    return {**_fields(view), "regions": dict(view.regions), "summary": acknowledge_text(view)}


def acknowledge_text(view: AcknowledgeView) -> str:
    """Whether writers wait for other regions, and for how long, in one line for people."""
    others, have, do = (
        ("1 other region", "has", "it does") if view.count == 1 else (f"{view.count} other regions", "have", "they do")
    )
    if view.degraded:
        return f"DEGRADED: writers are answered although fewer than {others} have what they wrote"
    words = f"writers are answered when {others} {have} what they wrote"
    if not view.oldest_seconds:
        return words
    return f"{words}; the oldest that {do} not have waits since {seconds_text(view.oldest_seconds)}"


def _at_risk_json(state: StrandState) -> dict[str, Any]:
    amounts = sorted(state.at_risk_amounts.items())
    return {
        "blocks": state.at_risk_blocks,
        "amounts": [{"table": table, "currency": currency, "amount": amount} for (table, currency), amount in amounts],
        "unknown": state.at_risk_unknown,
        "summary": ", ".join(at_risk_words(state)),
    }


def at_risk_words(state: StrandState) -> list[str]:
    """What no other region has, for people."""
    words = [f"{state.at_risk_blocks or 0:,} blocks"]
    words += [
        f"{amount:,.2f} {currency} of {table}" for (table, currency), amount in sorted(state.at_risk_amounts.items())
    ]
    if state.at_risk_unknown:
        words.append(f"{state.at_risk_unknown:,} changes of unknown amount")
    return words


def _verify_json(view: VerifyView) -> dict[str, Any]:
    fields = _fields(view)
    fields["divergent_keys"] = dict(view.divergent_keys)
    fields["wrong"] = [_fields(wrong) for wrong in view.wrong]
    return fields


def _lag_json(lag: Lag) -> dict[str, Any]:
    return {"blocks": lag.blocks, "seconds": None if lag.seconds is None else round(lag.seconds, 3)}


def _fields(value: Any) -> dict[str, Any]:
    """A flat value, a dataclass or a named tuple, as a dict."""
    names = value._fields if hasattr(value, "_fields") else value.__dataclass_fields__
    return {name: getattr(value, name) for name in names}


def history_json(history: tuple[RegionEvent, ...]) -> list[dict[str, Any]]:
    """The transitions that are known, oldest first."""
    return [{**_fields(event), "at": time_text(event.at_us)} for event in history]


def cluster_json(snapshot: Snapshot) -> dict[str, Any]:
    """The regions that are known here: those of its cluster, or itself, whom it follows, and who follows it."""
    lag = _lag_json(snapshot.strands[0].progress.end_to_end) if snapshot.strands else None
    if snapshot.failover is not None:
        own = {"role": snapshot.role, "ready": blocked(snapshot) is None, "lag": lag}
        return {"region": snapshot.region, "members": members_json(snapshot.failover, own)}
    members: list[dict[str, Any]] = [
        {"name": snapshot.region, "role": snapshot.role, "ready": blocked(snapshot) is None, "lag": lag}
    ]
    if snapshot.primary_url is not None:
        members.append({"name": None, "role": "primary", "url": snapshot.primary_url})
    for follower in snapshot.followers:
        sent = {"strand": follower.strand, "sent_sequence": follower.sent_sequence}
        members.append({"name": follower.region, "role": "replica", **sent})
    return {"region": snapshot.region, "members": members}
