"""What makes a promise true. Pure.

Who promises an epoch takes nothing older any more, and reports the promise only once that holds in full: its own fence
of an older epoch is closed, its feed is of no older epoch, and what has arrived is in the journal. So whoever counts
promises sees, with each of them, all that the region will ever have of older epochs.
"""

from __future__ import annotations

from typing import NamedTuple

from replicator.cluster.decisions.model import DurableState

OLDER = "?"  # no region's name: a session that began in an older epoch


class FeedSession(NamedTuple):
    """Whom a region follows (None: nobody), and the newest epoch in which it began to follow anybody."""

    region: str | None = None
    epoch: int = 0

    def following(self, region: str | None, epoch: int) -> FeedSession:
        """The session after turning to ``region``, or to nobody."""
        return FeedSession(region, self.epoch if region is None else epoch)

    def seen_in(self, epoch: int) -> str | None:
        """The region that is followed, as a decision in ``epoch`` sees it: an older session has to begin anew."""
        return self.region if self.region is None or self.epoch >= epoch else OLDER

    def honours(self, epoch: int, *, is_drained: bool) -> bool:
        """Whether nothing of an epoch before this one can still reach the journal."""
        return is_drained and (self.region is None or self.epoch >= epoch)


def breaks_promise(memory: DurableState, epoch: int, *, is_open: bool) -> bool:
    """Whether the fence is open in an epoch before ``epoch``: it must close before that is promised."""
    return is_open and memory.led < epoch


def kept_promise(memory: DurableState, *, is_open: bool, honours: bool) -> int:
    """The promise that may be reported: the memory's, or 0 while it does not hold in full. ``honours`` is what the feed
    says of it."""
    return memory.promised if honours and not breaks_promise(memory, memory.promised, is_open=is_open) else 0
