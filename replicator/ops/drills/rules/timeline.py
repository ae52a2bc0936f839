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

from replicator.ops.drills.rules.measures import Canary
from replicator.ops.drills.rules.observations import MarkLevel, TimelineEntry


class TimelineStep(NamedTuple):
    """A step's end, and in which region."""

    name: str
    at: float
    region: str
    why: str = ""


class StateSpan(NamedTuple):
    """A region was in a state for a while."""

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
    claiming = _last(ordered, {"claiming"}, new)
    found: list[TimelineStep] = []
    detected = _first(ordered, {"suspecting"}, None)
    if detected is not None:
        found.append(TimelineStep("detection", detected.at, detected.region, detected.why))
    closing = _first(ordered, {"demoting"}, old) if old is not None else None
    if (decided := closing or claiming) is not None:
        found.append(TimelineStep("decision", decided.at, decided.region, decided.why))
    since = claiming.at if claiming is not None else began
    for name, state in (("fence", "draining"), ("drain", "promoting")):
        entry = _last([one for one in ordered if one.at >= since], {state}, new)
        if entry is not None:
            found.append(TimelineStep(name, entry.at, new, entry.why))
    return [*found, TimelineStep("promote", promoted.at, new, promoted.why)]


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


def first_write_step(canary: Canary | None) -> TimelineStep | None:
    """The first acknowledged write as a step."""
    return None if canary is None else TimelineStep("first write", canary.acked_at, canary.region)


def spans(entries: Iterable[TimelineEntry], ended: float) -> list[StateSpan]:
    """In which state each region was from when to when."""
    by_region: dict[str, list[TimelineEntry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.at):
        by_region.setdefault(entry.region, []).append(entry)
    found: list[StateSpan] = []
    for region, some in by_region.items():
        for place, entry in enumerate(some):
            until = some[place + 1].at if place + 1 < len(some) else ended
            if found and found[-1].region == region and found[-1].state == entry.state:
                found[-1] = found[-1]._replace(ended=until)
            else:
                found.append(StateSpan(region, entry.state, entry.at, until))
    return found


def _first(entries: Sequence[TimelineEntry], states: set[str], region: str | None) -> TimelineEntry | None:
    return next((e for e in entries if e.state in states and region in (None, e.region)), None)


def _last(entries: Sequence[TimelineEntry], states: set[str], region: str | None) -> TimelineEntry | None:
    return _first(entries[::-1], states, region)
