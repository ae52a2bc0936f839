"""What a drill sees of the regions, put together poll by poll.

Guarantee: a region's own history is placed on the drill's clock. An entry's time is that of the region's clock, but
held between the two polls of which only the later one showed it: a clock that is wrong cannot move it further than
that. Memory is bounded by what changes, and by ``LIMIT``.

Pure: no clock, no I/O. Times are seconds since the drill began, unless a name says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LIMIT = 100_000
HISTORY_LIMIT = 1_000  # entries of one answer
AWAY = "away"  # the state of a region that does not answer


class HistoryEvent(NamedTuple):
    """An entry of a region's own history; ``at_us`` by its own wall clock."""

    at_us: int
    state: str
    event: str = ""
    epoch: int = 0
    why: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RegionObservation:
    """One answer of a region, or that it gave none. ``leads``: it is the primary and takes writes. ``lag_seconds`` is
    None where it is not known; ``blocked`` is why it could not be promoted."""

    region: str
    asked_at: float
    at: float
    state: str = AWAY
    leads: bool = False
    epoch: int = 0
    sequence: int = 0
    applied: int = 0
    verified: int = 0
    heard_head: int = 0
    lag_seconds: float | None = None
    blocked: str = ""
    level: str = ""
    at_risk: Mapping[str, float] = dataclasses.field(default_factory=dict)
    history: Sequence[HistoryEvent] = ()

    @property
    def answers(self) -> bool:
        """Whether the region gave an answer."""
        return self.state != AWAY


def of_failover(
    name: str, asked_at: float, answer: dict[str, Any], lag_seconds: float | None = None
) -> RegionObservation:
    """What ``GET /v1/failover`` says. Raises KeyError, TypeError or ValueError for what is no such answer."""
    report = answer["report"]
    state = str(report["state"])
    return RegionObservation(
        region=name,
        asked_at=asked_at,
        at=asked_at,
        state=state,
        leads=state == "primary" and bool(report["open"]),
        epoch=int(report["epoch"]),
        sequence=int(report["sequence"]),
        applied=int(report["applied"]),
        verified=int(report["verified"]),
        heard_head=int(report["heard_head"]),
        lag_seconds=lag_seconds,
        blocked=str(report["blocked"]),
        level=str(answer.get("level") or ""),
        at_risk={str(currency): float(amount) for currency, amount in report["at_risk"].items()},
        history=[_past(entry) for entry in answer.get("history", ())[-HISTORY_LIMIT:]],
    )


def _past(entry: dict[str, Any]) -> HistoryEvent:
    return HistoryEvent(
        int(entry["at_us"]),
        str(entry["state"]),
        str(entry.get("event") or ""),
        int(entry.get("epoch") or 0),
        str(entry.get("why") or ""),
    )


def of_status(name: str, asked_at: float, status: dict[str, Any]) -> RegionObservation:
    """What ``GET /v1/status`` says: a region without failover leads if its configuration says so."""
    strand = status["strands"][0]
    marks = strand["marks"]
    is_primary = status["role"] == "primary"
    verify = strand.get("verify") or {}
    settled = int(marks["settled"] or 0)
    return RegionObservation(
        region=name,
        asked_at=asked_at,
        at=asked_at,
        state="primary" if is_primary else "following",
        leads=is_primary,
        epoch=int(strand["epoch"]),
        sequence=settled,
        applied=int(marks["applied"] or 0),
        verified=int(verify.get("verified") or 0),
        heard_head=int((strand["head"] or {}).get("sequence") or 0),
        lag_seconds=strand["lag"]["seconds"],
        blocked="" if status["blocked"] is None else str(status["blocked"]["message"]),
    )


class TimelineEntry(NamedTuple):
    """Something that happened in a region."""

    at: float
    region: str
    state: str
    why: str = ""
    epoch: int = 0


class MarkLevel(NamedTuple):
    """A region's mark at a moment."""

    at: float
    sequence: int


class RegionObservations:
    """What was seen so far. ``wall_us`` is the wall time at which the drill's clock was 0."""

    def __init__(self, wall_us: int) -> None:
        self.wall_us = wall_us
        self.latest: dict[str, RegionObservation] = {}
        self.entries: list[
            TimelineEntry
        ] = []  # by region in order; from history where there is one, else from the polls
        self.verified: dict[str, list[MarkLevel]] = {}
        self.furthest: dict[str, int] = {}  # the greatest sequence that each region has shown
        self.at_risk_blocks = 0
        self.at_risk_amounts: dict[str, float] = {}
        self._known: dict[str, set[HistoryEvent]] = {}
        self._told: dict[str, str] = {}

    def saw(self, sight: RegionObservation) -> None:
        """Take one poll's outcome in."""
        before = self.latest.get(sight.region)
        self.latest[sight.region] = sight
        self._history(sight, before)
        if sight.state != self._told.get(sight.region):
            at = sight.at if sight.answers else sight.asked_at  # it has not answered since then
            self._tell(TimelineEntry(at, sight.region, sight.state, "", sight.epoch))
        if not sight.answers:
            return
        self.furthest[sight.region] = max(self.furthest.get(sight.region, 0), sight.sequence)
        marks = self.verified.setdefault(sight.region, [])
        if len(marks) < LIMIT and (not marks or marks[-1].sequence < sight.verified):
            marks.append(MarkLevel(sight.at, sight.verified))
        risk = at_risk(self.latest)
        self.at_risk_blocks = max(self.at_risk_blocks, risk.blocks)
        for currency, amount in risk.amounts.items():
            self.at_risk_amounts[currency] = max(self.at_risk_amounts.get(currency, 0.0), amount)

    @property
    def leader(self) -> str | None:
        """Who takes writes, by the latest answers; of two the one with the newer epoch."""
        leading = [sight for sight in self.latest.values() if sight.leads]
        return max(leading, key=lambda sight: sight.epoch).region if leading else None

    def _history(self, sight: RegionObservation, before: RegionObservation | None) -> None:
        known = self._known.get(sight.region)
        if known is None:
            if sight.history or sight.answers:
                self._known[sight.region] = set(sight.history)  # what was before the drill is not of it
            return
        earliest = before.asked_at if before is not None else sight.asked_at
        for past in sight.history:
            if past not in known:
                known.add(past)
                at = min(max((past.at_us - self.wall_us) / 1e6, earliest), sight.at)
                self._tell(TimelineEntry(at, sight.region, past.state, past.why or past.event, past.epoch))

    def _tell(self, entry: TimelineEntry) -> None:
        self._told[entry.region] = entry.state
        if len(self.entries) < LIMIT:
            self.entries.append(entry)


class RiskObservation(NamedTuple):
    """What would be lost with the primary now."""

    blocks: int
    amounts: dict[str, float]


def at_risk(latest: Mapping[str, RegionObservation]) -> RiskObservation:
    """Blocks that are known to be, or to have been, at the primary and that no other region has."""
    others = [sight for sight in latest.values() if not sight.leads]
    leading = [sight for sight in latest.values() if sight.leads]
    if not others:
        return RiskObservation(0, {})
    have = max(sight.sequence for sight in others)
    head = max([sight.sequence for sight in leading] + [sight.heard_head for sight in others], default=0)
    blocks = max(head - have, 0)
    amounts: dict[str, float] = {}
    for sight in leading if blocks else ():
        for currency, amount in sight.at_risk.items():
            amounts[currency] = max(amounts.get(currency, 0.0), amount)
    return RiskObservation(blocks, amounts)
