"""The steps of a change of the primary, told from what the regions said of themselves.

    fault ─▶ detection ─▶ decision ─▶ fence ─▶ drain ─▶ promote ─▶ first write ─▶ verified

Guarantee: a step that nobody told of is not in the timeline; none is guessed.

    detection     a region calls the primary lost (suspecting); of a switchover there is none
    decision      the new primary stands for it (claiming), or the old one closes for its successor (demoting)
    fence         the lease is the new one's and nobody takes the older epoch any more (draining)
    drain         all that was received is applied and verified (promoting)
    promote       writes are open (primary)
    first write   a canary is acknowledged by the new primary
    verified      another region has proven itself equal behind the first block of the new epoch

Pure: no clock, no I/O. Times are seconds since the drill began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from replicator.ops.drills.rules.observations import MarkLevel, TimelineEntry


class TimelineStep(NamedTuple):
    """When a step of a change of the primary was done, and by which region."""

    name: str
    at: float
    region: str
    why: str = ""


class StateSpan(NamedTuple):
    """A time in which a region was in one state."""

    region: str
    state: str
    began: float
    ended: float


def steps_of(
    entries: Iterable[TimelineEntry],
    began: float,
    ended: float,
    old: str | None,
    new: str,
) -> list[TimelineStep]:
    """The steps in which ``new`` took over from ``old`` after the event at ``began``, up to the promotion."""
    ordered = sorted((entry for entry in entries if began <= entry.at <= ended), key=lambda entry: entry.at)
    promoted = _first(ordered, {"primary"}, new)
    if promoted is None:
        return []
    ordered = [entry for entry in ordered if entry.at <= promoted.at]
    claiming = _last(ordered, {"claiming"}, new)  # the last: a claim may fail and be made again
    steps: list[TimelineStep] = []
    detected = _first(ordered, {"suspecting"}, None)
    if detected is not None:
        steps.append(TimelineStep("detection", detected.at, detected.region, detected.why))
    closing = _first(ordered, {"demoting"}, old) if old is not None else None
    if (decided := closing or claiming) is not None:
        steps.append(TimelineStep("decision", decided.at, decided.region, decided.why))
    since = claiming.at if claiming is not None else began
    for name, state in (("fence", "draining"), ("drain", "promoting")):
        # A step is over when the next state is entered, and only behind the claim that was won.
        entry = _last([entry for entry in ordered if entry.at >= since], {state}, new)
        if entry is not None:
            steps.append(TimelineStep(name, entry.at, new, entry.why))
    return [*steps, TimelineStep("promote", promoted.at, new, promoted.why)]


def verified_step(
    marks: Mapping[str, Sequence[MarkLevel]], new: str, sequence: int, after: float
) -> TimelineStep | None:
    """When the first other region had proven itself equal at ``sequence`` or behind it."""
    reached = [
        TimelineStep("verified", max(mark.at, after), region)
        for region, levels in marks.items()
        if region != new
        for mark in levels
        if mark.sequence >= sequence
    ]
    return min(reached, key=lambda step: step.at, default=None)


def spans(entries: Iterable[TimelineEntry], ended: float) -> list[StateSpan]:
    """In which state each region was from when to when."""
    by_region: dict[str, list[TimelineEntry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.at):
        by_region.setdefault(entry.region, []).append(entry)
    joined: list[StateSpan] = []
    for region, history in by_region.items():
        for place, entry in enumerate(history):
            until = history[place + 1].at if place + 1 < len(history) else ended
            if joined and joined[-1].region == region and joined[-1].state == entry.state:
                joined[-1] = joined[-1]._replace(ended=until)
            else:
                joined.append(StateSpan(region, entry.state, entry.at, until))
    return joined


def _first(entries: Sequence[TimelineEntry], states: set[str], region: str | None) -> TimelineEntry | None:
    return next((entry for entry in entries if entry.state in states and region in (None, entry.region)), None)


def _last(entries: Sequence[TimelineEntry], states: set[str], region: str | None) -> TimelineEntry | None:
    return _first(entries[::-1], states, region)
