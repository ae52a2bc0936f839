"""How long an entry may be on its way.

Guarantee: a fixed window is what was configured. A window that tunes itself stays within its bounds, grows as soon as
too many entries would miss it, and shrinks only when it has been clearly too long twice in a row, so it does not flap;
``reason`` says what was chosen and why.

The idea: lateness (feed time at arrival minus event time) is counted in buckets that grow by a quarter power of two;
the window is the upper edge of the bucket below which all but ``miss`` of the entries lie. Counts are halved after
each ``PERIOD`` entries, so the past fades.
"""

from __future__ import annotations

from bisect import bisect_left

from settle_buffer.config import AutoWindow

PERIOD = 4_096  # entries between two decisions
SHRINK = 0.7  # shorter only if this much shorter would do
EDGES_US = [round(1_000 * 2 ** (step / 4)) for step in range(100)]  # 1 ms to about 8 hours


class Window:
    """The window in force, ``us``, and the lateness that was seen."""

    def __init__(self, window: int | AutoWindow) -> None:
        self._auto = window if isinstance(window, AutoWindow) else None
        self._counts = [0.0] * (len(EDGES_US) + 1)
        self._since = 0
        self._short = 0
        self.histogram = [0] * (len(EDGES_US) + 1)  # all that was ever seen, for metrics
        self.lateness_us = 0  # the sum of it
        self.us = window.most_us if isinstance(window, AutoWindow) else window
        self.reason = "the longest allowed, until enough was seen" if self._auto else "configured"

    def observe(self, lateness_us: int, entries: int = 1) -> None:
        """So many entries came this late."""
        bucket = bisect_left(EDGES_US, lateness_us)
        self.histogram[bucket] += entries
        self.lateness_us += lateness_us * entries
        if self._auto is not None:
            self._counts[bucket] += entries
            self._since += entries
            if self._since >= PERIOD:
                self._decide(self._auto)

    def _decide(self, auto: AutoWindow) -> None:
        total = sum(self._counts)
        wanted = min(max(self._quantile(total * auto.miss), auto.least_us), auto.most_us)
        self._short = self._short + 1 if wanted < self.us * SHRINK else 0
        if wanted > self.us or self._short >= 2:
            self.us, self._short = wanted, 0
            self.reason = f"all but {auto.miss:g} of about {total:.0f} entries came within {wanted / 1e6:g} s"
        self._counts = [count / 2 for count in self._counts]
        self._since = 0

    def _quantile(self, allowed: float) -> int:
        """The edge above which at most ``allowed`` entries lie."""
        above = 0.0
        for bucket in range(len(EDGES_US), 0, -1):
            above += self._counts[bucket]
            if above > allowed:  # the bucket beyond the last edge has none of its own: the longest there is
                return EDGES_US[min(bucket, len(EDGES_US) - 1)]
        return EDGES_US[0]
