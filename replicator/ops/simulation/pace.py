"""How fast a region's sidecar works in the simulation: how long its loops sleep, and how long what it does takes.

``UNEVEN`` is slow and by chance, for it is to find what goes wrong between two steps; seeds' histories hang on it. What
tells operators how long a change of the primary takes has a pace of its own, which is held against the product's.
"""

from __future__ import annotations

import random
from typing import NamedTuple


class Span(NamedTuple):
    """A time that takes ``least_seconds``, and by chance up to ``more_seconds`` more."""

    least_seconds: float
    more_seconds: float

    def drawn(self, dice: random.Random) -> float:
        """One such time."""
        return self.least_seconds + dice.random() * self.more_seconds


class SidecarPace(NamedTuple):
    """The sleeps of a sidecar's loops, and what its actions take beside the network.

    ``wakes``: whatever changes a decision ends a sleep at once, as in the running sidecar; else every loop looks only
    when it looks. ``idle_seconds`` is then how long the flow sleeps with nothing to do.
    """

    decide: Span = Span(0.15, 0.2)
    look: Span = Span(0.2, 0.4)  # at the lease store
    poll_calm_seconds: float = 0.6  # a peer, while all is well
    poll_quick_seconds: float = 0.15  # and while something changes
    silent_seconds: float = 1.5  # for the promise of a peer that has not answered lately
    pull: Span = Span(0.15, 0.25)  # the feed, when it had nothing
    flow: Span = Span(0.15, 0.35)  # between two batches that are settled, applied and verified
    keep: Span = Span(0.002, 0.008)  # a memory on disk
    close_fence: Span = Span(0.0, 0.05)
    open_fence: Span = Span(0.0, 0.05)
    brief_seconds: float = 0.05  # before it is looked again at what others are about to do
    promote_least_seconds: float = 0.0  # beside what ``Weather.action_seconds`` may add, twice
    wakes: bool = False
    idle_seconds: float = 0.0


UNEVEN = SidecarPace()
