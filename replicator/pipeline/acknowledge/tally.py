"""Counting who has what: up to which sequence enough regions have everything durably.

Guarantee: pure; time is an argument. A sequence is *acknowledged* while at least ``count`` regions that count report
it. A region counts for what it reported last, on this chain and to this object: one that fell back counts for less, one
that has not reported yet for nothing. What was *released* (writers were told) never goes back.

    all acknowledged ◀──▶ behind        the oldest block that is not acknowledged has an age
         ▲                  │ ``degrade_after_seconds`` old, and the rule is "degrade"
         │                  ▼
         └────────────── degraded       everything that is stored is released
            behind by less than a quarter of that, for half of that without a break

The time that is passed in must be time in which reports could be heard: a process that was stopped has not been let
down by anybody. The age is known to within a 64th of ``degrade_after_seconds``, never too young.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

MARKS_LIMIT = 1024
MARKS_A_PERIOD = 64

Change = Literal["degraded", "restored"]


@dataclasses.dataclass(frozen=True, slots=True)
class AcknowledgeRule:
    """How many other regions must have a block durably before its writer is answered (``count``, 1 or more), of which
    ones (``regions``; None: of all that follow), and what happens if there are fewer: writers ``wait``, or the primary
    ``degrade``s after so many seconds and goes on without them. ``wait_seconds`` is how long a writer waits before it
    hears that the outcome is not known; one who waits for a primary to degrade is not sent away just before."""

    count: int
    missing: Literal["wait", "degrade"] = "wait"
    degrade_after_seconds: float = 10.0
    wait_seconds: float = 10.0
    regions: frozenset[str] | None = None

    @property
    def patience_seconds(self) -> float:
        """How long a writer waits."""
        if self.missing == "wait":
            return self.wait_seconds
        return max(self.wait_seconds, self.degrade_after_seconds + 1.0)


def acknowledged(reports: Mapping[str, int], count: int) -> int:
    """The sequence that ``count`` regions have reached: the count-th largest report; 0 if there are fewer."""
    ranked = sorted(reports.values(), reverse=True)
    return ranked[count - 1] if len(ranked) >= count else 0


class AcknowledgeTally:
    """The reports of one primary's time, from ``head`` on. Times are seconds of any clock that only grows."""

    def __init__(self, rule: AcknowledgeRule, head: int, now: float) -> None:
        self.rule = rule
        self.reports: dict[str, int] = {}
        self.stored = head
        self.acknowledged = 0
        self.released = 0
        self.degraded = False
        self._marks: list[tuple[int, float]] = [(0, now)]  # (sequence, time): what is beyond it was stored since then
        self._close_since: float | None = None  # degraded, but no longer behind by much

    def counts(self, region: str) -> bool:
        """Whether it matters what this region has."""
        return self.rule.regions is None or region in self.rule.regions

    def report(self, region: str, sequence: int) -> None:
        """A region has everything up to ``sequence`` durably."""
        if self.counts(region) and self.reports.get(region) != sequence:
            self.reports[region] = sequence
            self.acknowledged = acknowledged(self.reports, self.rule.count)
            self._release()

    def store(self, sequence: int, now: float) -> None:
        """Everything up to ``sequence`` is durable here."""
        if sequence <= self.stored:
            return
        if now - self._marks[-1][1] > self.rule.degrade_after_seconds / MARKS_A_PERIOD:
            self._marks.append((self.stored, now))
            if len(self._marks) > MARKS_LIMIT:
                del self._marks[1::2]  # a block's time is then that of an older mark: ages grow, they never shrink
        self.stored = sequence
        self._release()

    def having(self, sequence: int) -> int:
        """How many of the regions that count have everything up to ``sequence``."""
        return sum(reported >= sequence for reported in self.reports.values())

    def age_seconds(self, now: float) -> float:
        """How long the oldest block that is not acknowledged has been waiting; 0 if there is none."""
        if self.acknowledged >= self.stored:
            return 0.0
        since = max((at for sequence, at in self._marks if sequence <= self.acknowledged), default=self._marks[0][1])
        return max(0.0, now - since)

    def look(self, now: float) -> Change | None:
        """Decide whether to go on without enough regions, or with them again; the change, if there is one."""
        self._forget_marks()
        age, patience = self.age_seconds(now), self.rule.degrade_after_seconds
        if not self.degraded:
            if self.rule.missing == "wait" or age < patience:
                return None
            self.degraded, self._close_since = True, None
            self._release()
            return "degraded"
        # Back only when the regions keep up without a break: a region on the edge would degrade and restore for ever.
        if age > patience / 4:
            self._close_since = None
        elif self._close_since is None:
            self._close_since = now
        elif now - self._close_since >= patience / 2:
            self.degraded = False
            return "restored"
        return None

    def _release(self) -> None:
        self.released = max(self.released, self.stored if self.degraded else min(self.acknowledged, self.stored))

    def _forget_marks(self) -> None:
        """Only the last mark that is acknowledged, and those behind it, tell an age."""
        past = sum(sequence <= self.acknowledged for sequence, _ in self._marks)
        del self._marks[: max(past - 1, 0)]
