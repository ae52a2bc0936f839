"""The report as a page: ``report.html``, self-contained.

Guarantee: nothing is fetched from elsewhere and nothing is executed; whatever a name or message holds is shown as text;
the verdict is the first thing on it, each target with what was measured, and a figure that was not measured is shown as
such, never as zero. Light and dark, as the reader's system has it. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape

from replicator.ops.drills.report.form import ChangeReport, DrillReport, SpreadReport, TargetReport
from replicator.ops.drills.report.svg import PICTURE_CSS, lengths, picture, window
from replicator.status.text import seconds_text
from replicator.transport.page_style import CSS

_UNKNOWN = '<span class="soft">not measured</span>'
_OUTCOMES = {
    "passed": ("passed: every target is met", "good"),
    "missed": ("a target was missed", "bad"),
    "stopped": ("stopped itself", "wait"),
    "failed": ("failed", "bad"),
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(report: DrillReport) -> str:
    """The whole page."""
    sections = [
        _targets(report),
        *(_change(report, place) for place in range(len(report.changes))),
        _simulation(report),
        _regions(report),
        _canaries(report),
        _about(report),
    ]
    title = f"Drill: {report.name}, {report.outcome}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}{PICTURE_CSS}</style></head>"
        f"<body><main>{_header(report)}{''.join(filter(None, sections))}</main></body></html>"
    )


def _header(report: DrillReport) -> str:
    text, colour = _OUTCOMES[report.outcome]
    ways = {"live": "on the running deployment", "rehearsal": "on a fork of a standby", "simulation": "simulated"}
    subtitle = f"{report.kind.replace('_', ' ')}, {ways[report.way]}, {report.began}"
    notice = f'<div class="notice {colour}"><p>{escape(report.why)}</p></div>' if report.why else ""
    figures = [
        ("RTO", _seconds(report.rto_seconds)),
        ("RPO, blocks", _number(report.rpo_blocks)),
        *((f"RPO, {escape(currency)}", f"{amount:,.2f}") for currency, amount in sorted(report.rpo_amounts.items())),
        ("longest without a write", _seconds(report.blocked_seconds)),
        ("most at risk, blocks", _number(report.at_risk_blocks)),
    ]
    boxes = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in figures)
    return (
        f'<header><h1>{escape(report.name)}</h1><span class="state {colour}">{escape(text)}</span>'
        f'<span class="soft">{escape(subtitle)}</span></header>{notice}'
        f'<section><div class="figures" style="margin-bottom:0">{boxes}</div></section>'
    )


def _targets(report: DrillReport) -> str:
    rows = [
        (
            escape(target.name.replace("_", " ")),
            _amount(target.target, target),
            _UNKNOWN if target.measured is None else _amount(target.measured, target),
            f'<span class="state {"good" if target.met else "bad"}">{"met" if target.met else "missed"}</span>',
        )
        for target in report.targets
    ]
    return _section("Targets", _table(("target", "#at most", "#measured", ""), rows)) if rows else ""


def _amount(value: float, target: TargetReport) -> str:
    if target.unit == "seconds":
        return escape(seconds_text(value))
    return escape(f"{value:,.10g} {target.unit}")


def _change(report: DrillReport, place: int) -> str:
    change = report.changes[place]
    following = report.changes[place + 1].event_at if place + 1 < len(report.changes) else report.seconds
    began, ended = window(change, following, report.seconds)
    regions = list(dict.fromkeys([region.region for region in report.regions] + [s.region for s in report.spans]))
    lanes = picture(f"p{place}", change, report.spans, regions, began, ended) if regions else ""
    rows = [
        (f"{number}", escape(step.step), escape(step.region), _precise(since), _precise(took), escape(step.why))
        for number, (step, since, took) in enumerate(lengths(change), 1)
    ]
    line = f"RTO {_seconds(change.rto_seconds)}, longest without a write {_seconds(change.blocked_seconds)}"
    table = _table(("#", "step", "region", "#after", "#took", ""), rows) if rows else ""
    return _section(_change_title(report, change), f'<p class="small">{line}</p><div class="wide">{lanes}</div>{table}')


def _change_title(report: DrillReport, change: ChangeReport) -> str:
    name = "The way back" if change.name == "back" else "The event"
    if report.way == "rehearsal":
        name = "The rehearsed promotion"
    moved = f": {change.old} to {change.new}" if change.new and change.old != change.new else ""
    return name + moved


def _precise(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else seconds_text(seconds)


def _simulation(report: DrillReport) -> str:
    simulation = report.simulation
    if simulation is None:
        return ""
    rows = [
        (name, *_spread(spread, unit))
        for name, spread, unit in (
            ("RTO", simulation.rto_seconds, "s"),
            ("without a writer", simulation.blocked_seconds, "s"),
            ("RPO", simulation.rpo_blocks, "blocks"),
            ("written and not carried on", simulation.lost_blocks, "blocks"),
        )
        if spread is not None
    ]
    line = (
        f"{simulation.seeds:,} seeds from {simulation.first_seed} on, {simulation.virtual_seconds:g} s of virtual time"
        f" each, {simulation.seeds_per_second:,.0f} seeds a second"
    )
    notes = []
    for what, seeds in (
        ("missed a target", simulation.missed),
        ("did not converge", simulation.not_converged),
        ("had no writer in the end", simulation.without_writer),
    ):
        if seeds:
            notes.append(f"{what}: seeds {', '.join(map(str, seeds[:20]))}{' …' if len(seeds) > 20 else ''}")
    notices = "".join(f'<div class="notice bad"><p>{escape(note)}</p></div>' for note in notes)
    heads = ("", "#p50", "#p99", "#max", "#seed of the max")
    return _section("Simulation", f'<p class="small">{escape(line)}</p>{notices}{_table(heads, rows)}')


def _spread(spread: SpreadReport, unit: str) -> tuple[str, str, str, str]:
    figures = [f"{value:,.3f} {unit}" if unit == "s" else f"{value:,.0f} {unit}" for value in _values(spread)]
    return figures[0], figures[1], figures[2], "" if spread.max_seed is None else f"{spread.max_seed}"


def _values(spread: SpreadReport) -> tuple[float, float, float]:
    return spread.p50, spread.p99, spread.max


def _regions(report: DrillReport) -> str:
    if not report.regions:
        return ""
    rows = [
        (
            escape(region.region),
            _number(region.sequence),
            _number(region.missing_blocks),
            escape(region.compared) or _UNKNOWN,
            _seconds(region.visible_p50_seconds),
            _seconds(region.visible_max_seconds),
        )
        for region in report.regions
    ]
    heads = ("region", "#block", "#canaries missing", "compared", "#readable after, p50", "#at most")
    digests = [
        (escape(region.region), escape(table), f"<code>{escape(digest)}</code>")
        for region in report.regions
        for table, digest in sorted(region.digests.items())
    ]
    positions = [
        f'<p class="small"><span class="soft">{escape(region.region)} was compared at</span> '
        f"<code>{escape(region.position)}</code></p>"
        for region in report.regions
        if region.position
    ]
    shown = _table(("region", "table", "digest"), digests) if digests else ""
    details = f"<details><summary>Digests</summary>{''.join(positions)}{shown}</details>" if shown else ""
    return _section("Regions in the end", _table(heads, rows) + details)


def _canaries(report: DrillReport) -> str:
    canaries = report.canaries
    if canaries is None:
        return ""
    line = (
        f"{canaries.written:,} written, {canaries.acknowledged:,} acknowledged, {canaries.unanswered:,} unanswered"
        f"{f', {canaries.not_sent:,} not sent because too many waited' if canaries.not_sent else ''}"
    )
    if canaries.wait_seconds is not None:
        p50, p99, most = _values(canaries.wait_seconds)
        waits = f"p50 {_precise(p50)}, p99 {_precise(p99)}, at most {_precise(most)}"
        line += f". A writer waited {waits} for its answer"
    return _section("Canaries", f"<p>{escape(line)}.</p>")


def _about(report: DrillReport) -> str:
    facts = {
        "drill": report.id,
        "began": report.began,
        "took": seconds_text(report.seconds),
        "configuration, SHA-256": report.config_fingerprint,
        "seed": "" if report.seed is None else str(report.seed),
        **{f"version, {name}": version for name, version in report.versions.items()},
    }
    rows = [(escape(name), f"<code>{escape(value)}</code>") for name, value in facts.items() if value]
    notes = "".join(f'<p class="wait">{escape(note)}</p>' for note in report.notes)
    plan = escape(json.dumps(report.plan, indent=2, ensure_ascii=False))
    return _section(
        "About this drill", f"{notes}{_table((), rows)}<details><summary>The plan</summary><pre>{plan}</pre></details>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of cells that are HTML already; a head that begins with ``#`` makes a column of numbers."""
    numbers = {place for place, head in enumerate(heads) if head.startswith("#")}
    top = "".join(
        f'<th scope="col"{_class(place in numbers)}>{escape(h[1:] if place in numbers else h)}</th>'
        for place, h in enumerate(heads)
    )
    body = "".join(f"<tr>{''.join(_cells(row, numbers))}</tr>" for row in rows)
    head = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _cells(row: tuple[str, ...], numbers: set[int]) -> Iterator[str]:
    for place, cell in enumerate(row):
        yield f"<td{_class(place in numbers)}>{cell}</td>"


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _seconds(value: float | None) -> str:
    return _UNKNOWN if value is None else escape(seconds_text(value))


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"
