"""The diagram of failover's states, drawn from the table that the decisions go by.

Where a box stands is said here; which boxes there are, and every arrow, comes from the table. A state that has no place
here fails the drawing, so that none is left out.
"""

from __future__ import annotations

import html
import math
from collections import defaultdict

from docs.generate.markdown import cell, head, table
from replicator.cluster.decisions.states import LEADING, TABLE, RoleState

_WIDTH, _HEIGHT, _BOX = 1380, 570, (104, 34)
_COLUMN, _ROW, _LEFT, _TOP = 200, 150, 80, 70
_PLACES = {  # column, row
    "following": (0, 0.45),
    "suspecting": (1, 0),
    "claiming": (2, 0),
    "fencing": (3, 0),
    "draining": (4, 0),
    "promoting": (5, 0),
    "primary": (6, 0.45),
    "demoting": (6, 2),
    "demoted": (4, 2.2),
    "rejoining": (1.6, 2.2),
    "paused": (0, 2.2),
    "halted": (1.6, 3),
}
_BENDS = {  # to the left of the way, in pixels
    ("following", "claiming"): 62,
    ("demoted", "following"): 40,
    ("demoted", "claiming"): 26,
    **dict.fromkeys([("following", "paused"), ("paused", "following")], 26),
    **dict.fromkeys([("primary", "demoting"), ("demoting", "primary")], 36),
    **dict.fromkeys([("rejoining", "halted"), ("halted", "rejoining")], 26),
}
_LABELS = {("demoted", "following"): 0.62, ("following", "rejoining"): 0.6}  # how far along an arrow its name stands
_STYLE = (
    "text{font:12px sans-serif;fill:#1f2430}.state{font-weight:600;text-anchor:middle}.event{font-size:10px;"
    "text-anchor:middle}.halo{stroke:#fff;stroke-width:5px}rect{fill:#eef1f6;stroke:#5b6676}"
    ".leads{fill:#dcebdc}.writes{fill:#9fd3a0}path{fill:none;stroke:#5b6676}.head{fill:#5b6676;stroke:none}"
)
Point = tuple[float, float]

TEXT = """\
![Every state of a region, and every way from one to another](failover-states.svg)

Writes are open in `primary` alone, and only while the lease is usable. The green states hold the lease, or claim it. A
replica starts in `following`, a primary in `demoted`. Each state is durable before anything follows from it, and every
step may be done again, so that a region that is killed anywhere goes on or goes back. An event that a state does not
know changes nothing.

How a change of the primary goes through these states is told in [failover](failover.md).

"""


def page() -> str:
    """The diagram, and each of its arrows in words."""
    rows = [(f"`{state}`", f"{event.name}", cell(event.value), f"`{after}`") for (state, event), after in TABLE.items()]
    return (
        head("The states of failover", "the table of states")
        + TEXT
        + table(("in the state", "event", "which means", "goes to"), rows)
    )


def picture() -> str:
    """The diagram as SVG: nothing in it is fetched from anywhere."""
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (state, event), after in TABLE.items():
        arrows[state.value, after.value].append(event.name.lower())
    drawn = [_arrow(start, end, ", ".join(names), (end, start) in arrows) for (start, end), names in arrows.items()]
    boxes = [_box(state) for state in RoleState]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">\n'
        f"<style>{_STYLE}</style>\n"
        f'<path d="M0 0H{_WIDTH}V{_HEIGHT}H0Z" style="fill:#fff;stroke:none"/>\n'
        + "\n".join([*drawn, *boxes])
        + "\n</svg>\n"
    )


def _centre(state: str) -> Point:
    column, row = _PLACES[state]
    return _LEFT + column * _COLUMN, _TOP + row * _ROW


def _box(state: RoleState) -> str:
    (x, y), (width, height) = _centre(state), _BOX
    kind = "writes" if state is RoleState.PRIMARY else "leads" if state in LEADING else ""
    return (
        f'<rect class="{kind}" x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="7"/>'
        f'<text class="state" x="{x:g}" y="{y + 4:g}">{html.escape(state.value)}</text>'
    )


def _arrow(start: str, end: str, name: str, has_reverse: bool) -> str:
    """A line from box to box, bent to its left; two that run both ways are apart by that."""
    bend = _BENDS.get((start, end), 12 if has_reverse else 0)
    from_, to = _centre(start), _centre(end)
    length = math.dist(from_, to)
    left = ((to[1] - from_[1]) / length, -(to[0] - from_[0]) / length)
    middle = ((from_[0] + to[0]) / 2 + left[0] * 2 * bend, (from_[1] + to[1]) / 2 + left[1] * 2 * bend)
    begin, tip = _edge(from_, middle), _edge(to, middle)
    along = _LABELS.get((start, end), 0.5)
    label = _on_curve(begin, middle, tip, along)
    return (
        f'<path d="M{begin[0]:.0f} {begin[1]:.0f}Q{middle[0]:.0f} {middle[1]:.0f} {tip[0]:.0f} {tip[1]:.0f}"/>'
        f"{_head(middle, tip)}{_label(name, label)}"
    )


def _label(name: str, at: Point) -> str:
    """An event's name over its arrow; the halo keeps the line from running through it."""
    text = f'x="{at[0]:.0f}" y="{at[1] + 3:.0f}">{html.escape(name)}</text>'
    return f'<text class="event halo" {text}<text class="event" {text}'


def _edge(centre: Point, towards: Point) -> Point:
    """Where the line from a box's centre leaves the box."""
    x, y = towards[0] - centre[0], towards[1] - centre[1]
    scale = min(_BOX[0] / 2 / abs(x) if x else math.inf, _BOX[1] / 2 / abs(y) if y else math.inf)
    return centre[0] + x * scale, centre[1] + y * scale


def _on_curve(begin: Point, middle: Point, tip: Point, along: float) -> Point:
    """A point of a quadratic Bézier curve."""
    a, b, c = (1 - along) ** 2, 2 * along * (1 - along), along**2
    return a * begin[0] + b * middle[0] + c * tip[0], a * begin[1] + b * middle[1] + c * tip[1]


def _head(before: Point, tip: Point) -> str:
    angle = math.atan2(tip[1] - before[1], tip[0] - before[0])
    corners = [(tip[0] - 9 * math.cos(angle + turn), tip[1] - 9 * math.sin(angle + turn)) for turn in (-0.4, 0.4)]
    return (
        f'<path class="head" d="M{tip[0]:.0f} {tip[1]:.0f}' + "".join(f"L{x:.0f} {y:.0f}" for x, y in corners) + 'Z"/>'
    )
