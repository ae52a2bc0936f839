"""What a drill observes of the regions, put together poll by poll.

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
    """One answer of a region, or that it gave none. ``leads``: it is the primary and takes writes. ``heard_head`` is
    the primary's last sequence as the region heard it, ``at_risk`` amounts by currency that only the primary has.
    ``lag_seconds`` is None where it is not known; ``blocked`` is why it could not be promoted."""

    region: str
    asked_at: float
    at: float
    state: str = AWAY
    leads: bool = False
    epoch: int = 0
    sequence: int = 0
    verified: int = 0
    heard_head: int = 0
    lag_seconds: float | None = None
    blocked: str = ""
    at_risk: Mapping[str, float] = dataclasses.field(default_factory=dict)
    history: Sequence[HistoryEvent] = ()

    @property
    def answers(self) -> bool:
        """Whether the region gave an answer."""
        return self.state != AWAY


def of_failover(
    name: str, asked_at: float, answer: dict[str, Any], lag_seconds: float | None = None
) -> RegionObservation:
    """The observation in an answer to ``GET /v1/failover``. Raises KeyError, TypeError or ValueError for another."""
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
        verified=int(report["verified"]),
        heard_head=int(report["heard_head"]),
        lag_seconds=lag_seconds,
        blocked=str(report["blocked"]),
        at_risk={str(currency): float(amount) for currency, amount in report["at_risk"].items()},
        history=[_event(entry) for entry in answer.get("history", ())[-HISTORY_LIMIT:]],
    )


def _event(entry: dict[str, Any]) -> HistoryEvent:
    return HistoryEvent(
        int(entry["at_us"]),
        str(entry["state"]),
        str(entry.get("event") or ""),
        int(entry.get("epoch") or 0),
        str(entry.get("why") or ""),
    )


def of_status(name: str, asked_at: float, status: dict[str, Any]) -> RegionObservation:
    """The observation in an answer to ``GET /v1/status``: a region without failover leads if its configuration says so.
    Raises KeyError, TypeError or ValueError for another answer."""
    strand = status["strands"][0]
    is_primary = status["role"] == "primary"
    verify = strand.get("verify") or {}
    return RegionObservation(
        region=name,
        asked_at=asked_at,
        at=asked_at,
        state="primary" if is_primary else "following",
        leads=is_primary,
        epoch=int(strand["epoch"]),
        sequence=int(strand["marks"]["settled"] or 0),
        verified=int(verify.get("verified") or 0),
        heard_head=int((strand["head"] or {}).get("sequence") or 0),
        lag_seconds=strand["lag"]["seconds"],
        blocked="" if status["blocked"] is None else str(status["blocked"]["message"]),
    )


class TimelineEntry(NamedTuple):
    """A region entered a state."""

    at: float
    region: str
    state: str
    why: str = ""
    epoch: int = 0


class MarkLevel(NamedTuple):
    """Up to which sequence a region's mark was at a moment."""

    at: float
    sequence: int


class RegionObservations:
    """What was observed so far. ``wall_us`` is the wall time at which the drill's clock was 0.

    ``entries`` are in order for each region: from its history where it tells one, else from the polls. ``verified``
    holds each region's mark whenever it had moved, ``at_risk_blocks`` and ``at_risk_amounts`` the most at any time.
    """

    def __init__(self, wall_us: int) -> None:
        self.wall_us = wall_us
        self.latest: dict[str, RegionObservation] = {}
        self.entries: list[TimelineEntry] = []
        self.verified: dict[str, list[MarkLevel]] = {}
        self.at_risk_blocks = 0
        self.at_risk_amounts: dict[str, float] = {}
        self._known: dict[str, set[HistoryEvent]] = {}
        self._states: dict[str, str] = {}  # of each region's last entry

    def add(self, observation: RegionObservation) -> None:
        """Take one poll's outcome in."""
        region = observation.region
        before = self.latest.get(region)
        self.latest[region] = observation
        self._add_history(observation, before)
        if observation.state != self._states.get(region):
            # A region is away from when the first poll was sent that it did not answer.
            at = observation.at if observation.answers else observation.asked_at
            self._enter(TimelineEntry(at, region, observation.state, "", observation.epoch))
        if not observation.answers:
            return
        marks = self.verified.setdefault(region, [])
        if len(marks) < LIMIT and (not marks or marks[-1].sequence < observation.verified):
            marks.append(MarkLevel(observation.at, observation.verified))
        risk = at_risk(self.latest)
        self.at_risk_blocks = max(self.at_risk_blocks, risk.blocks)
        for currency, amount in risk.amounts.items():
            self.at_risk_amounts[currency] = max(self.at_risk_amounts.get(currency, 0.0), amount)

    @property
    def leader(self) -> str | None:
        """The region that takes writes, by the latest answers; of two the one with the newer epoch."""
        leading = [observation for observation in self.latest.values() if observation.leads]
        return max(leading, key=lambda observation: observation.epoch).region if leading else None

    def _add_history(self, observation: RegionObservation, before: RegionObservation | None) -> None:
        known = self._known.get(observation.region)
        if known is None:
            if observation.answers:
                self._known[observation.region] = set(observation.history)  # what was before the drill is not of it
            return
        earliest = before.asked_at if before is not None else observation.asked_at
        for event in observation.history:
            if event not in known:
                known.add(event)
                at = min(max((event.at_us - self.wall_us) / 1e6, earliest), observation.at)
                self._enter(TimelineEntry(at, observation.region, event.state, event.why or event.event, event.epoch))

    def _enter(self, entry: TimelineEntry) -> None:
        self._states[entry.region] = entry.state
        if len(self.entries) < LIMIT:
            self.entries.append(entry)


class RiskObservation(NamedTuple):
    """What would be lost with the primary now: blocks, and their amounts by currency."""

    blocks: int
    amounts: dict[str, float]


def at_risk(latest: Mapping[str, RegionObservation]) -> RiskObservation:
    """Blocks that are known to be, or to have been, at the primary and that no other region has."""
    leading = [observation for observation in latest.values() if observation.leads]
    others = [observation for observation in latest.values() if not observation.leads]
    if not others:
        return RiskObservation(0, {})
    # A primary that is gone has left word of its head with those that followed it.
    heads = [*(leader.sequence for leader in leading), *(other.heard_head for other in others)]
    blocks = max(max(heads) - max(other.sequence for other in others), 0)
    amounts: dict[str, float] = {}
    for leader in leading if blocks else ():
        for currency, amount in leader.at_risk.items():
            amounts[currency] = max(amounts.get(currency, 0.0), amount)
    return RiskObservation(blocks, amounts)
