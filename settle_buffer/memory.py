"""The digests of what was released last, and the room that waiting entries take.

Guarantee: both are bounded: the oldest digests are forgotten first, and the room says when it is full.
"""

from __future__ import annotations

from bisect import bisect_right

from settle_buffer.config import SettleConfig
from settle_buffer.entry import Entry, weight


class ReleasedDigests:
    """Digests by sequence, of at most about ``limit`` entries; kept per run, so a run costs one step."""

    __slots__ = ("_count", "_firsts", "_limit", "_runs")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._firsts: list[int] = []
        self._runs: list[list[bytes]] = []
        self._count = 0

    def add(self, first: int, digests: list[bytes]) -> None:
        """Remember a run; its ``first`` is above everything remembered."""
        self._firsts.append(first)
        self._runs.append(digests)
        self._count += len(digests)
        if self._count > 2 * self._limit:  # seldom and much at once: dropping from the front of a list moves the rest
            self._forget()

    def get(self, sequence: int) -> bytes | None:
        """The digest, None if it is not remembered."""
        index = bisect_right(self._firsts, sequence) - 1
        if index < 0:
            return None
        run = self._runs[index]
        offset = sequence - self._firsts[index]
        return run[offset] if offset < len(run) else None

    def _forget(self) -> None:
        """Drop whole runs from the old end; the newest run is kept whatever its size."""
        index = 0
        while index < len(self._runs) - 1 and self._count - len(self._runs[index]) >= self._limit:
            self._count -= len(self._runs[index])
            index += 1
        del self._firsts[:index], self._runs[:index]


class Room:
    """What waits, over all strands: in memory (``resident_*``) and only on disk (``spilled_*``)."""

    __slots__ = ("_config", "resident_bytes", "resident_entries", "spilled_bytes", "spilled_entries")

    def __init__(self, config: SettleConfig) -> None:
        self._config = config
        self.resident_entries = 0
        self.resident_bytes = 0
        self.spilled_entries = 0
        self.spilled_bytes = 0

    @property
    def held_entries(self) -> int:
        return self.resident_entries + self.spilled_entries

    @property
    def held_bytes(self) -> int:
        return self.resident_bytes + self.spilled_bytes

    def admit(self, run: list[Entry]) -> bool:
        """Count a run that begins to wait; whether it may stay in memory."""
        config = self._config
        if (
            self.resident_entries + len(run) > config.resident_entries
            or self.resident_bytes + weight(run) > config.resident_bytes
        ):
            self.spill(run)
            return False
        self.keep(run)
        return True

    @property
    def overfull(self) -> bool:
        """Whether more is in memory than should be."""
        config = self._config
        return self.resident_entries > config.resident_entries or self.resident_bytes > config.resident_bytes

    def spill(self, run: list[Entry]) -> None:
        """Count a run that waits on disk only."""
        self.spilled_entries += len(run)
        self.spilled_bytes += weight(run)

    def keep(self, run: list[Entry]) -> None:
        """Count a run that stays in memory whatever the limits say."""
        self.resident_entries += len(run)
        self.resident_bytes += weight(run)

    def leave(self, run: list[Entry]) -> None:
        """A run in memory waits no longer."""
        self.resident_entries -= len(run)
        self.resident_bytes -= weight(run)

    def unspill(self, count: int) -> None:
        """Spilled entries wait no longer; their bytes go at the average, so the last one takes the rest."""
        count = min(count, self.spilled_entries)
        if count:
            self.spilled_bytes -= self.spilled_bytes * count // self.spilled_entries
            self.spilled_entries -= count
