"""The feed's clock, estimated from what the feed says.

Guarantee: the estimate never runs ahead of the feed's own clock by more than this machine's clock has jumped since the
last heartbeat, and never further than ``trust_us`` beyond that heartbeat. A constant error of the local clock cancels.

The idea (one-way delays, as NTP's clock filter takes the sample of least delay): a heartbeat that says ``at`` and is
heard at ``now`` shows that the feed's clock is at least ``at - now`` ahead of ours; the largest such difference of the
last samples is the one that was least delayed. The estimate lags by that least delay, which is the safe side: it holds
a little longer. ``error_us`` is the spread of the samples. Until a first heartbeat, entries serve as samples.
"""

from __future__ import annotations

from collections import deque

SAMPLES = 64


class FeedClock:
    """Offset of the feed's clock against ours, microseconds."""

    __slots__ = ("_from_entries", "_heard_at", "_offsets", "_trust_us")

    def __init__(self, trust_us: int) -> None:
        self._offsets: deque[int] = deque(maxlen=SAMPLES)
        self._from_entries: int | None = None
        self._heard_at: int | None = None
        self._trust_us = trust_us

    def heartbeat(self, at: int, now: int) -> None:
        """The feed's clock said ``at``; heard at ``now``."""
        self._offsets.append(at - now)
        self._heard_at = at if self._heard_at is None else max(self._heard_at, at)

    def entry(self, at: int, now: int) -> None:
        """An entry of this time arrived: the feed's clock is at least there."""
        if self._from_entries is None or at - now > self._from_entries:
            self._from_entries = at - now

    @property
    def offset_us(self) -> int | None:
        """What to add to our clock to get the feed's, None as long as the feed has said nothing."""
        return max(self._offsets) if self._offsets else self._from_entries

    @property
    def error_us(self) -> int:
        """The spread of the samples: what delays have varied by."""
        return max(self._offsets) - min(self._offsets) if self._offsets else 0

    def feed_now(self, now: int) -> int | None:
        """The feed's clock at our ``now``, at the safe side."""
        offset = self.offset_us
        if offset is None:
            return None
        estimate = now + offset
        # Without a heartbeat entries alone vouch for the clock: a feed that sends none would otherwise never settle.
        return estimate if self._heard_at is None else min(estimate, self._heard_at + self._trust_us)

    def local(self, feed_at: int) -> int | None:
        """Our clock when the estimate reaches ``feed_at``; None if it will not without another heartbeat."""
        offset = self.offset_us
        if offset is None or (self._heard_at is not None and feed_at > self._heard_at + self._trust_us):
            return None
        return feed_at - offset
