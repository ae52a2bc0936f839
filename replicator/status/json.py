"""The status as JSON: ``/v1/status``, ``/cluster`` and ``/history``. Pure.

Guarantee: every field of what the region's parts report as values is there under its own name; what is not known is
null. Programs outside read this: names, order and units stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replicator.cluster.failover.status import FailoverView, MemberView
from replicator.pipeline.acknowledge.view import AcknowledgeView
from replicator.pipeline.sources.base import SourceReport
from replicator.status.marks import MARKS, Lag, StageView
from replicator.status.model import JournalView, RegionEvent, Snapshot, StrandState
from replicator.status.readiness import blocked, is_promotable, lag_cause, not_promotable, promotable_text
from replicator.status.text import acknowledge_text, at_risk_words, journal_text, lease_text, lost_text, time_text
from replicator.storage.journal.regions import KnownRegion
from replicator.verify.view import VerifyView


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


def history_json(history: tuple[RegionEvent, ...]) -> list[dict[str, Any]]:
    """The transitions that are known, oldest first."""
    return [{**_fields(event), "at": time_text(event.at_us)} for event in history]


def _source_json(report: SourceReport) -> dict[str, Any]:
    fields = _fields(report)
    del (
        fields["heard_at"],
        fields["handed_over_at"],
    )  # by a clock that means nothing outside; the stages have their ages
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


def _lag_json(lag: Lag) -> dict[str, Any]:
    return {"blocks": lag.blocks, "seconds": None if lag.seconds is None else round(lag.seconds, 3)}


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


def _acknowledge_json(view: AcknowledgeView) -> dict[str, Any]:
    return {**_fields(view), "regions": dict(view.regions), "summary": acknowledge_text(view)}


def _at_risk_json(state: StrandState) -> dict[str, Any]:
    amounts = sorted(state.at_risk_amounts.items())
    return {
        "blocks": state.at_risk_blocks,
        "amounts": [{"table": table, "currency": currency, "amount": amount} for (table, currency), amount in amounts],
        "unknown": state.at_risk_unknown,
        "summary": ", ".join(at_risk_words(state)),
    }


def _verify_json(view: VerifyView) -> dict[str, Any]:
    fields = _fields(view)
    fields["divergent_keys"] = dict(view.divergent_keys)
    fields["wrong"] = [_fields(wrong) for wrong in view.wrong]
    return fields


def failover_json(view: FailoverView) -> dict[str, Any]:
    """All of it."""
    own = view.own
    return {
        "state": own.state,
        "epoch": own.report.epoch,
        "promised": view.promised,
        "mode": view.mode,
        "fence_open": own.report.open,
        "why": view.why,
        "primary": {"level": view.level, "why": view.level_why},
        "lease": {
            "known": view.is_lease_known,
            "holder": view.holder,
            "epoch": view.holder_epoch,
            "remaining_seconds": view.lease_remaining_seconds,
            "trouble": view.lease_trouble or None,
            "summary": lease_text(view),
        },
        "order": {"what": view.order, "seconds": view.order_seconds} if view.order else None,
        "would_lose": {
            "blocks": view.lost_blocks if view.is_copied else None,
            "amounts": dict(view.lost_amounts),
            "unknown": view.lost_unknown,
            "refused": view.refused or None,
            "summary": lost_text(view),
        },
        "orphaned_transactions": view.orphaned,
        "regions": [member_json(member) for member in sorted_members(view)],
    }


def members_json(view: FailoverView, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The members for ``/cluster``; ``own`` is what is known of this region beside it."""
    head = max((member.report.sequence for member in (view.own, *view.peers) if member.leads), default=None)
    return [
        {
            "name": member.region,
            "role": "primary" if member.leads else "replica",
            **member_json(member),
            "behind_blocks": None if head is None or member.is_silent else max(head - member.report.applied, 0),
            **(own if member is view.own else {}),
        }
        for member in sorted_members(view)
    ]


def member_json(member: MemberView) -> dict[str, Any]:
    """A region of the cluster."""
    return {
        "region": member.region,
        "url": member.url,
        "state": member.state or None,
        "epoch": member.report.epoch,
        "sequence": member.report.sequence,
        "applied": member.report.applied,
        "verified": member.report.verified,
        "fence_open": member.report.open,
        "promotable": is_promotable(member),
        "blocked": not_promotable(member) or None,
        "seen_age_seconds": round(member.seen_age_seconds, 3),
        "summary": promotable_text(member),
    }


def sorted_members(view: FailoverView) -> list[MemberView]:
    """Every region of the cluster, by name."""
    return sorted((view.own, *view.peers), key=lambda member: member.region)


def _fields(value: Any) -> dict[str, Any]:
    """A flat value, a dataclass or a named tuple, as a dict."""
    names = value._fields if hasattr(value, "_fields") else value.__dataclass_fields__
    return {name: getattr(value, name) for name in names}
