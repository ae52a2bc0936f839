"""A drill as a picture: one lane a region with its states, the steps of each change as marks, in one SVG.

Guarantee: what a name holds is text, never markup; the picture has a title and a description that say the same in
words, is read without colour (states are labelled, marks are numbered), and follows the page's light or dark colours.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

from replicator.ops.drills.report.form import ChangeReport, SpanReport, StepReport

WIDTH, LEFT, RIGHT = 960, 92, 16
LANE, BAR, TOP, FOOT = 44, 20, 58, 34
LETTER = 6.2  # px of a small letter, about
TICKS = 8
NEAR = 17.0  # marks that are closer than this are put on another row

_CLASSES = {
    "primary": "leads",
    "following": "follows",
    "paused": "follows",
    "suspecting": "doubts",
    "claiming": "changes",
    "fencing": "changes",
    "draining": "changes",
    "promoting": "changes",
    "demoting": "changes",
    "demoted": "down",
    "rejoining": "changes",
    "halted": "down",
    "away": "gone",
}

PICTURE_CSS = """
.lanes { width: 100%; min-width: 640px; height: auto; display: block; font: 11px system-ui, sans-serif; }
.lanes text { fill: var(--ink); } .lanes .dim { fill: var(--soft); } .lanes .lane { font-weight: 600; font-size: 12px; }
.lanes line { stroke: var(--line); } .lanes .mark { stroke: var(--ink); stroke-dasharray: 2 3; }
.lanes .dot { fill: var(--ink); } .lanes .digit { fill: var(--card); font-weight: 700; font-size: 10px; }
.lanes .leads { fill: var(--good); } .lanes .follows { fill: var(--bar); fill-opacity: .35; }
.lanes .doubts { fill: var(--wait); fill-opacity: .55; } .lanes .changes { fill: var(--wait); }
.lanes .down { fill: var(--bad); fill-opacity: .55; }
.lanes .gone { fill: none; stroke: var(--bad); stroke-dasharray: 4 3; }
.lanes .on { fill: var(--card); font-weight: 600; } .lanes .over { fill: var(--ink); }
"""


def picture(
    name: str, change: ChangeReport, spans: Sequence[SpanReport], regions: Sequence[str], began: float, ended: float
) -> str:
    """The part of a drill around one change, from ``began`` to ``ended``, as an inline SVG."""
    scale = _Scale(began, ended)
    marks = _placed(change.steps, scale)
    rows = 1 + max((row for _, _, row in marks), default=0)
    top = TOP + (rows - 1) * 18
    height = top + LANE * len(regions) + FOOT
    shown = [span for span in spans if span.ended_at > began and span.began_at < ended]
    parts = [
        f'<svg class="lanes" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">',
        f'<title id="{name}-t">{escape(_title(change))}</title>',
        f'<desc id="{name}-d">{escape(_words(change, shown))}</desc>',
        *_axis(scale, top, height, change.event_at),
        *(part for place, region in enumerate(regions) for part in _lane(region, place, shown, scale, top)),
        *_marks(marks, height - FOOT),
        "</svg>",
    ]
    return "".join(parts)


def window(change: ChangeReport, until: float, seconds: float) -> tuple[float, float]:
    """The part of the drill that the picture of a change shows: a little before it, and to its last step."""
    last = max([step.at for step in change.steps] + [change.event_at + (change.blocked_seconds or 0)])
    length = max(last - change.event_at, 0.2)
    ended = min(max(last + 0.25 * length, change.event_at + 1.0), max(until, last), seconds) if change.steps else until
    return max(change.event_at - 0.15 * (ended - change.event_at), 0.0), max(ended, change.event_at + 0.1)


class _Scale:
    """From seconds to pixels."""

    def __init__(self, began: float, ended: float) -> None:
        self.began, self.ended = began, max(ended, began + 1e-3)

    def x(self, at: float) -> float:
        """Where a moment is, within the lanes."""
        share = (min(max(at, self.began), self.ended) - self.began) / (self.ended - self.began)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def ticks(self, zero: float) -> Iterator[float]:
        """Round times, counted from ``zero``."""
        length = self.ended - self.began
        step = next((s for s in _STEPS if length / s <= TICKS), length / TICKS)
        number = int((self.began - zero) / step) - 1
        while zero + number * step <= self.ended:
            if zero + number * step >= self.began:
                yield zero + number * step
            number += 1


_STEPS = [base * 10**power for power in range(-3, 5) for base in (1.0, 2.0, 5.0)]


def _axis(scale: _Scale, top: int, height: int, zero: float) -> Iterator[str]:
    for at in scale.ticks(zero):
        x = scale.x(at)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{height - FOOT}"/>'
        offset = escape(_offset(at - zero))
        yield f'<text class="dim" x="{x:.1f}" y="{height - 14}" text-anchor="middle">{offset}</text>'


def _lane(region: str, place: int, spans: Sequence[SpanReport], scale: _Scale, top: int) -> Iterator[str]:
    y = top + place * LANE + (LANE - BAR) // 2
    yield f'<text class="lane" x="0" y="{y + 14}">{escape(_cut(region, LEFT - 6, 7.0))}</text>'
    for span in spans:
        if span.region != region:
            continue
        x, end = scale.x(span.began_at), scale.x(span.ended_at)
        width = max(end - x, 1.5)
        kind = _CLASSES.get(span.state, "changes")
        words = f"{region}: {span.state}, {span.ended_at - span.began_at:.3f} s"
        yield f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3">'
        yield f"<title>{escape(words)}</title></rect>"
        # A label that would be cut to a few letters says less than none.
        label = _cut(span.state, width - 8, LETTER)
        if label == span.state or len(label) > 5:
            over = "on" if kind in ("leads", "changes") else "over"
            yield f'<text class="{over}" x="{x + 5:.1f}" y="{y + 14}">{escape(label)}</text>'


def _placed(steps: Sequence[StepReport], scale: _Scale) -> list[tuple[StepReport, float, int]]:
    """Each step with its place and its row: those that would cover each other get rows of their own."""
    placed: list[tuple[StepReport, float, int]] = []
    ends: list[float] = []
    for step in sorted(steps, key=lambda step: step.at):
        x = scale.x(step.at)
        row = next((row for row, end in enumerate(ends) if x - end >= NEAR), len(ends))
        if row == len(ends):
            ends.append(x)
        ends[row] = x
        placed.append((step, x, row))
    return placed


def _marks(marks: Sequence[tuple[StepReport, float, int]], bottom: int) -> Iterator[str]:
    for number, (step, x, row) in enumerate(marks, 1):
        y = 16 + row * 18
        yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{bottom}"/>'
        yield f'<circle class="dot" cx="{x:.1f}" cy="{y}" r="8"><title>{escape(step.step)}</title></circle>'
        yield f'<text class="digit" x="{x:.1f}" y="{y + 3.5}" text-anchor="middle">{number}</text>'


def _title(change: ChangeReport) -> str:
    if change.new and change.old and change.new != change.old:
        return f"{change.new} takes over from {change.old}"
    return f"{change.old or 'nobody'} leads throughout"


def _words(change: ChangeReport, spans: Sequence[SpanReport]) -> str:
    steps = [f"{step.step} in {step.region} after {step.at - change.event_at:.3f} s" for step in change.steps]
    states = [f"{span.region} {span.state} for {span.ended_at - span.began_at:.1f} s" for span in spans[:40]]
    return "Steps: " + ("; ".join(steps) or "none") + ". States: " + ("; ".join(states) or "none") + "."


def lengths(change: ChangeReport) -> list[tuple[StepReport, float, float]]:
    """Each step, in order, with the time since the event and since the step before."""
    ordered = sorted(change.steps, key=lambda step: step.at)
    before = [ordered[0].at, *(step.at for step, _ in pairwise(ordered))] if ordered else []
    return [(step, step.at - change.event_at, step.at - last) for step, last in zip(ordered, before, strict=True)]


def _offset(seconds: float) -> str:
    return "0" if abs(seconds) < 1e-9 else f"{seconds:+.3g} s"


def _cut(text: str, width: float, letter: float) -> str:
    room = int(width / letter)
    return text if len(text) <= room else text[: max(room - 1, 0)] + "…" if room > 2 else ""
