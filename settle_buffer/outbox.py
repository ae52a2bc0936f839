"""What is on its way from the core to the consumer. Pure.

Guarantee: items leave in the order in which they came. Releases of one strand that follow one another without a hole
are joined while they wait, so that a consumer that is behind commits in groups. What is given out counts until it is
acknowledged, so both the outbox and the consumer's debt can be bounded.
"""

from __future__ import annotations

from collections import deque

from settle_buffer.config import SettleConfig
from settle_buffer.entry import Entry, weight
from settle_buffer.events import Correction, Load, Release

JOIN_ENTRIES, JOIN_BYTES = 4_096, 4 << 20  # releases are joined up to about this size

Item = Release | Correction | Load


class Outbox:
    """A queue of items with two debts: what waits in it, and what the consumer has not acknowledged."""

    def __init__(self, config: SettleConfig) -> None:
        self._config = config
        self._items: deque[tuple[Item, int]] = deque()  # with the weight in bytes
        self._entries = 0
        self._bytes = 0
        self._unacknowledged: dict[str, deque[tuple[int, int]]] = {}  # by strand: last position, bytes
        self._unacknowledged_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether more waits here than may be in memory."""
        return self._entries > self._config.resident_entries or self._bytes > self._config.resident_bytes

    @property
    def overdrawn(self) -> bool:
        """Whether the consumer owes too many acknowledgements."""
        return self._unacknowledged_bytes > self._config.unacknowledged_bytes

    def add(self, item: Item) -> None:
        """Put at the end."""
        size = 0
        if isinstance(item, Release):
            for strand, last, weighs in _ends(item, self._config.order == "time"):
                self._unacknowledged.setdefault(strand, deque()).append((last, weighs))
                size += weighs
            self._unacknowledged_bytes += size
            self._entries += len(item.entries)
            self._bytes += size
        self._items.append((item, size))

    def take(self) -> tuple[Item, int]:
        """What is to be handed over next, and its weight; it counts here until ``handed_over``."""
        item, size = self._items.popleft()
        if not isinstance(item, Release) or item.strand is None:
            return item, size
        entries = item.entries
        while self._items and len(entries) < JOIN_ENTRIES and size < JOIN_BYTES:
            following, more = self._items[0]
            if not isinstance(following, Release) or not _follows(entries[-1], following):
                break
            entries, size = entries + following.entries, size + more
            self._items.popleft()
        return Release(item.strand, entries), size

    def handed_over(self, item: Item, size: int) -> None:
        """The consumer has it."""
        if isinstance(item, Release):
            self._entries -= len(item.entries)
            self._bytes -= size

    def acknowledge(self, strand: str, position: int) -> None:
        """The consumer has made it durable, up to this position."""
        waiting = self._unacknowledged.get(strand)
        while waiting and waiting[0][0] <= position:
            self._unacknowledged_bytes -= waiting.popleft()[1]


def _follows(last: Entry, release: Release) -> bool:
    """Whether a release is the run right behind an entry of its strand."""
    return release.strand == last.strand and release.entries[0].sequence == last.sequence + 1


def _ends(release: Release, timed: bool) -> list[tuple[str, int, int]]:
    """What the consumer will acknowledge of a release: each strand's last position in it, and its bytes."""
    if release.strand is not None:
        return [(release.strand, release.entries[-1].sequence, weight(release.entries))]
    groups: dict[str, list[Entry]] = {}
    for entry in release.entries:
        groups.setdefault(entry.strand, []).append(entry)
    return [(name, run[-1].at if timed else run[-1].sequence, weight(run)) for name, run in groups.items()]
