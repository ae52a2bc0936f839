"""What is wrong for long is said once, then ever more seldom, and once more when it is over.

Guarantee: a trouble is logged as it begins; while it lasts at intervals that double, whatever its words are by then;
and its end is logged with how long it took. A thing that is tried twice a second for a night is a dozen lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

FIRST_SECONDS, MOST_SECONDS = 10.0, 600.0


class _Trouble:
    """One that lasts: since when, and when it is said again."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.every = FIRST_SECONDS
        self.next_at = now + self.every


class Complaints:
    """Those of one part of the program, which is named in each."""

    def __init__(self, part: str, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._part, self._log, self._clock = part, log, clock
        self._troubles: dict[str, _Trouble] = {}

    def about(self, what: str, error: object) -> None:
        """``what`` does not work, because of ``error``."""
        now, trouble = self._clock(), self._troubles.get(what)
        if trouble is None:
            self._troubles[what] = _Trouble(now)
            self._log.warning("%s: %s", self._part, error)
        elif now >= trouble.next_at:
            trouble.every = min(trouble.every * 2, MOST_SECONDS)
            trouble.next_at = now + trouble.every
            self._log.warning("%s, for %.0f s now: %s", self._part, now - trouble.since, error)

    def over(self, what: str) -> None:
        """``what`` works."""
        trouble = self._troubles.pop(what, None)
        if trouble is not None:
            self._log.warning("%s: %s is well again, after %.0f s", self._part, what, self._clock() - trouble.since)
