"""The status page: one snapshot as HTML.

Guarantee: whatever a name or message holds is shown as text, never read as HTML; a figure that is not known is shown as
such; the first thing on the page is whether the region is ready and, if not, why and what to do. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from replicator.cluster.failover.status import FailoverView
from replicator.errors import ReplicatorError
from replicator.pipeline.feed.publish import ServedFollower
from replicator.status.json import sorted_members
from replicator.status.marks import MARKS, Lag, StageCondition, StageView
from replicator.status.model import DrillView, RegionEvent, Snapshot, StrandState
from replicator.status.readiness import blocked, is_alone, is_promotable, lag_cause, promotable_text
from replicator.status.settle_view import GapView, SettleView
from replicator.status.text import (
    ORPHANS_CURE,
    QUARANTINE_CURE,
    acknowledge_text,
    at_risk_words,
    lease_text,
    lost_text,
    orphans_text,
    quarantine_text,
    seconds_text,
    time_text,
)
from replicator.transport.page_style import CONTENT_SECURITY_POLICY, CSS, SCRIPT

__all__ = ["CONTENT_SECURITY_POLICY", "page"]

SHOWN_KEYS = 20
SHOWN_GAPS = 20
SHOWN_EVENTS = 20
_UNKNOWN = '<span class="soft">not known</span>'
_NOT_YET = '<span class="soft">not yet</span>'
_LEVELS = {"green": "good", "yellow": "wait", "red": "bad"}
_COLOURS = {
    StageCondition.WORKING: "good",
    StageCondition.IDLE: "good",
    StageCondition.WAITING: "wait",
    StageCondition.STUCK: "bad",
    StageCondition.HALTED: "bad",
}


def page(snapshot: Snapshot) -> str:
    """The whole page."""
    reason = blocked(snapshot)
    title = f"{snapshot.region}: {_header_words(snapshot, reason)[0]}"
    sections = [
        "" if snapshot.failover is None else _failover(snapshot.failover),
        *(_strand(snapshot, state) for state in snapshot.strands),
        _source(snapshot),
        _followers(snapshot.followers),
        _drills(snapshot.drills),
        _history(snapshot.history),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        '<div id="stale" role="alert"></div>'
        f"<main>{_header(snapshot, reason)}{''.join(sections)}{_footer(snapshot)}</main>"
        f"<script>{SCRIPT}</script></body></html>"
    )


def _header(snapshot: Snapshot, reason: ReplicatorError | None) -> str:
    state = _state(*_header_words(snapshot, reason))
    follows = f", follows {escape(snapshot.primary_url)}" if snapshot.primary_url else ""
    role = f'<span class="soft">{snapshot.role}{follows}</span>'
    troubles = [stage.trouble for strand in snapshot.strands for stage in strand.progress.stages]
    notice = "" if reason is None or reason in troubles else _notice(reason, "bad")  # the strand shows its own
    return f"<header><h1>{escape(snapshot.region)}</h1>{state}{role}</header>{notice}"


def _header_words(snapshot: Snapshot, reason: ReplicatorError | None) -> tuple[str, str]:
    """What the region is, for its header and its title, and the colour."""
    if reason is not None:
        return "not ready", "bad"
    return ("ready, but alone", "wait") if is_alone(snapshot) else ("ready", "good")


def _notice(error: ReplicatorError, colour: str, before: str = "") -> str:
    cure = f"<p><b>What to do:</b> {escape(error.cure)}</p>" if error.cure else ""
    place = f"{escape(error.place)}: " if error.place else ""
    text = f"<p>{escape(before)}{place}{escape(error.message)} <code>{escape(error.reason)}</code></p>"
    return f'<div class="notice {colour}">{text}{cure}</div>'


def _strand(snapshot: Snapshot, state: StrandState) -> str:
    view = state.progress
    title = f"<h2>Strand {escape(view.strand)} <span class='soft small'>epoch {state.epoch}</span></h2>"
    notices = "".join(
        _notice(stage.trouble, _COLOURS[stage.condition], _trouble_head(stage))
        for stage in view.stages
        if stage.trouble is not None
    )
    if state.quarantined_statements:
        text = quarantine_text(state.quarantined_statements, state.held_keys)
        notices += (
            f'<div class="notice bad"><p>{escape(text)}</p><p><b>What to do:</b> {escape(QUARANTINE_CURE)}</p></div>'
        )
    lag = view.end_to_end
    figures = [
        ("behind, in time", _seconds(lag)),
        ("behind, in blocks", _blocks(lag)),
        ("primary's head", _UNKNOWN if view.head is None else f"{view.head.sequence:,}"),
        *((name, _NOT_YET if (mark := view.marks[name]) is None else f"{mark.sequence:,}") for name in MARKS),
    ]
    cause = f'<p class="small"><span class="soft">What holds it up:</span> {escape(lag_cause(snapshot, state))}</p>'
    position = ""
    if state.position is not None:
        position = f'<p class="small"><span class="soft">Journal ends at</span> <code>{state.position}</code></p>'
    resets = "".join(f'<p class="small wait">Set back by hand: {escape(text)}</p>' for text in view.resets)
    body = (
        notices
        + _figures(figures)
        + cause
        + _stages(view.stages)
        + _safety(state)
        + _settle(state)
        + _proof(state)
        + position
        + resets
    )
    return f"<section>{title}{body}</section>"


def _trouble_head(stage: StageView) -> str:
    verb = "halted" if stage.condition is StageCondition.HALTED else "waiting"
    since = "" if stage.trouble_age_seconds is None else f" for {seconds_text(stage.trouble_age_seconds)}"
    return f"{stage.name}, {verb}{since}: "


def _stages(stages: Iterable[StageView]) -> str:
    rows = [
        (
            escape(stage.name),
            _state(stage.condition.value, _COLOURS[stage.condition]),
            _blocks(stage.lag),
            _seconds(stage.lag),
            _ago(stage.progress_age_seconds),
            "" if stage.heartbeat_age_seconds is None else _ago(stage.heartbeat_age_seconds),
        )
        for stage in stages
    ]
    return _table(("stage", "", "#blocks behind", "#time behind", "#last progress", "#last heartbeat"), rows)


def _settle(state: StrandState) -> str:
    if state.settle is None:
        return ""
    settle = state.settle
    line = (
        f'<p class="small"><span class="soft">Settle buffer:</span> {settle.entries:,} entries '
        f"({settle.bytes:,} bytes) wait, {settle.duplicates:,} duplicates dropped, {settle.late:,} late, "
        f"{settle.conflicts:,} conflicts; {settle.gaps_opened:,} gaps, {settle.gaps_filled:,} of them filled, "
        f"{settle.gaps_waived:,} waived</p>"
    )
    return line + "".join(_settle_notes(settle)) + _gaps(settle.gaps)


def _settle_notes(settle: SettleView) -> Iterator[str]:
    """What is worth saying only where it is so."""
    if settle.window_seconds:
        window = f"{seconds_text(settle.window_seconds)}: {escape(settle.window_reason)}"
        yield f'<p class="small"><span class="soft">Window:</span> {window}</p>'
    if settle.clock_offset_seconds is not None:
        offset = f"{settle.clock_offset_seconds:+.3f} s, give or take {settle.clock_error_seconds or 0:.3f} s"
        yield f'<p class="small"><span class="soft">The feed\'s clock less ours:</span> {offset}</p>'
    if settle.pressure:
        yield f'<p class="small wait">Full ({escape(settle.pressure)}): the feed waits until there is room</p>'
    if settle.spool_set_aside:
        aside = escape(settle.spool_set_aside)
        yield f'<p class="small wait">A damaged spool is kept as <code>{aside}</code>; the feed is read again</p>'


def _gaps(gaps: tuple[GapView, ...]) -> str:
    if not gaps:
        return ""
    rows = [
        (
            f"{gap.first:,}" if gap.first == gap.last else f"{gap.first:,} to {gap.last:,}",
            _state(gap.state, "bad" if gap.state == "expired" else "wait"),
            f"{gap.last - gap.first + 1:,}",
            _ago(gap.age_seconds, ""),
        )
        for gap in gaps[:SHOWN_GAPS]
    ]
    more = f'<p class="soft small">and {len(gaps) - SHOWN_GAPS:,} more</p>' if len(gaps) > SHOWN_GAPS else ""
    return _table(("missing sequences", "", "#blocks", "#open for"), rows) + more


def _safety(state: StrandState) -> str:
    """What would be lost with a primary, and whether its writers wait for that."""
    lines = []
    if state.acknowledge is not None:
        style = "bad" if state.acknowledge.degraded else "soft"
        lines.append(f'<p class="small {style}">{escape(acknowledge_text(state.acknowledge))}</p>')
    if state.at_risk_blocks:
        words = escape(", ".join(at_risk_words(state)))
        lines.append(f'<p class="small"><span class="soft">In no other region yet:</span> {words}</p>')
    return "".join(lines)


def _proof(state: StrandState) -> str:
    """How far the replica is proven equal, and the keys that are not as they must be."""
    proof = state.verify
    if proof is None:
        return ""
    scrub = "no whole comparison with the primary yet"
    if proof.scrub_sequence is not None and proof.scrub_age_seconds is not None:
        scrub = f"whole tables compared at {proof.scrub_sequence:,}, {_ago(proof.scrub_age_seconds)}"
    line = f'<p class="small"><span class="soft">Proven equal</span> up to block {proof.verified:,}; {scrub}</p>'
    trouble = f'<p class="small wait">Cannot be proven now: {escape(proof.trouble)}</p>' if proof.trouble else ""
    counts = ", ".join(f"{keys:,} of {escape(table)}" for table, keys in sorted(proof.divergent_keys.items()))
    if not counts:
        return line + trouble
    rows = [
        (escape(w.table), escape(w.key), _count(w.first_block), _count(w.last_block), escape(w.cause))
        for w in proof.wrong[:SHOWN_KEYS]
    ]
    heads = ("table", "key", "#first block", "#last block", "likely cause")
    return f'{line}{trouble}<div class="notice bad"><p>Divergent keys: {counts}</p></div>' + _table(heads, rows)


def _failover(view: FailoverView) -> str:
    """The region's part in failover, and how each region of the cluster stands."""
    figures = [
        ("this region is", escape(view.own.state)),
        ("the primary is", _state(view.level, _LEVELS.get(view.level, "bad"))),
        ("mode", escape(view.mode)),
        ("epoch", f"{view.own.report.epoch:,}"),
        ("would be lost now, blocks", f"{view.lost_blocks:,}"),
    ]
    lines = [("Lease:", lease_text(view)), ("If the primary were gone now:", f"{lost_text(view)} would be lost")]
    lines += [("The primary:", view.level_why)] if view.level_why else []
    lines += [("Now:", view.why)] if view.why else []
    lines += [("Order:", f"{view.order}, {view.order_seconds:.1f} s left")] if view.order else []
    notice = ""
    if view.orphaned:
        cure = f"<p><b>What to do:</b> {escape(ORPHANS_CURE)}</p>"
        notice = f'<div class="notice bad"><p>{escape(orphans_text(view.orphaned))}</p>{cure}</div>'
    rows = [
        (
            escape(member.region),
            escape(member.state or "?"),
            f"{member.report.epoch:,}",
            f"{member.report.sequence:,}",
            f"{member.report.applied:,}",
            _state(promotable_text(member), "good" if is_promotable(member) else "bad"),
        )
        for member in sorted_members(view)
    ]
    heads = ("region", "state", "#epoch", "#sequence", "#applied", "could be promoted")
    text = "".join(f'<p class="small"><span class="soft">{name}</span> {escape(line)}</p>' for name, line in lines)
    return f"<section><h2>Failover</h2>{notice}{_figures(figures)}{text}{_table(heads, rows)}</section>"


def _source(snapshot: Snapshot) -> str:
    figures: list[tuple[str, str]] = []
    if (source := snapshot.source) is not None:
        figures += [(f"source ({source.kind})", escape(source.phase))]
        if source.copied_rows:
            estimate = f" of about {source.copy_rows_estimate:,}" if source.copy_rows_estimate else ""
            figures.append(("rows copied at first", f"{source.copied_rows:,}{estimate}"))
        if source.seen is not None:
            figures.append(("the ledger's own position", escape(source.seen)))
        if source.retained_bytes is not None:
            figures.append(("log kept for us, bytes", f"{source.retained_bytes:,}"))
        if source.safe_bytes is not None:
            figures.append(("until the slot is lost, bytes", f"{source.safe_bytes:,}"))
    if (replica := snapshot.replica) is not None:
        figures.append((f"replica ({replica.kind})", escape(replica.place)))
        figures.append(("rows changed by others", f"{replica.drifted_rows:,}"))
    if not figures:
        return ""
    rows = [(escape(name), value) for name, value in figures]
    return f"<section><h2>Databases</h2>{_table((), rows)}</section>"


def _followers(followers: tuple[ServedFollower, ...]) -> str:
    if not followers:
        return ""
    rows = [(escape(f.region or "unnamed"), escape(f.strand), f"{f.sent_sequence:,}") for f in followers]
    return f"<section><h2>Followers</h2>{_table(('region', 'strand', '#sent up to'), rows)}</section>"


def _drills(drills: tuple[DrillView, ...]) -> str:
    if not drills:
        return ""
    rows = [
        (
            escape(drill.kind.replace("_", " ")),
            escape(drill.name),
            _state(drill.outcome, "good" if drill.outcome == "passed" else "bad"),
            _ago(drill.age_seconds),
            _UNKNOWN if drill.rto_seconds is None else seconds_text(drill.rto_seconds),
            _UNKNOWN if drill.rpo_blocks is None else f"{drill.rpo_blocks:,.0f}",
        )
        for drill in drills
    ]
    return f"<section><h2>Drills</h2>{_table(('kind', 'plan', '', '#when', '#RTO', '#RPO, blocks'), rows)}</section>"


def _history(history: tuple[RegionEvent, ...]) -> str:
    if not history:
        return ""
    rows = [
        (time_text(event.at_us), escape(event.kind), event.role, f"{event.epoch}", escape(event.note))
        for event in reversed(history[-SHOWN_EVENTS:])
    ]
    return f"<section><h2>History</h2>{_table(('when', 'what', 'role', '#epoch', ''), rows)}</section>"


def _footer(snapshot: Snapshot) -> str:
    links = " · ".join(
        f'<a href="{path}">{name}</a>'
        for path, name in (
            ("/v1/status", "status as JSON"),
            ("/metrics", "metrics"),
            ("/cluster", "cluster"),
            ("/history", "history"),
        )
    )
    return (
        f"<footer>{time_text(snapshot.at_us)} · up {seconds_text(snapshot.uptime_seconds)} · "
        f"version {escape(snapshot.version)} · {links}</footer>"
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of cells that are HTML already; a head that begins with ``#`` makes a column of numbers."""
    numbers = {place for place, head in enumerate(heads) if head.startswith("#")}
    classes = [' class="number"' if place in numbers else "" for place in range(max(len(heads), 8))]
    top = "".join(f"<th{classes[place]}>{escape(head.lstrip('#'))}</th>" for place, head in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{classes[place]}>{cell}</td>" for place, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table>{f"<thead><tr>{top}</tr></thead>" if top else ""}<tbody>{body}</tbody></table></div>'
    )


def _figures(figures: Iterable[tuple[str, str]]) -> str:
    boxes = "".join(f"<div><b>{value}</b><span>{escape(name)}</span></div>" for name, value in figures)
    return f'<div class="figures">{boxes}</div>'


def _state(text: str, colour: str) -> str:
    return f'<span class="state {colour}">{escape(text)}</span>'


def _seconds(lag: Lag) -> str:
    return _UNKNOWN if lag.seconds is None else seconds_text(lag.seconds)


def _blocks(lag: Lag) -> str:
    return _count(lag.blocks)


def _count(number: int | None) -> str:
    return _UNKNOWN if number is None else f"{number:,}"


def _ago(seconds: float, after: str = " ago") -> str:
    return seconds_text(seconds) + after
