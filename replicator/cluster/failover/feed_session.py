"""Whom this region follows, since which epoch, and what that makes true of a promise.

Guarantee: ``honours(epoch)`` is true only once nothing of an older epoch can arrive any more, and all that has arrived
is in the journal: a report that shows the promise then shows all that this region will ever have of older epochs.
"""

from __future__ import annotations

import trio

from replicator.errors import Unavailable
from replicator.runtime.roles.pipeline import RolePipeline
from replicator.runtime.roles.replica import ReplicaPipeline
from replicator.runtime.roles.runner import RoleRunner

DRAIN_SECONDS = 2.0
LOOK_SECONDS = 0.005
FORK_REASONS = frozenset({"diverged", "ahead_of_primary"})
OLDER = "?"  # no region's name: a session that began in an older epoch


class FeedSession:
    """The following of one region, over all halves that run one after another."""

    def __init__(self, running: RoleRunner) -> None:
        self.region: str | None = None
        self._running = running
        self._epoch = 0
        self._began = trio.current_time()

    @property
    def _half(self) -> ReplicaPipeline | None:
        half: RolePipeline | None = self._running.half
        return half if isinstance(half, ReplicaPipeline) else None

    def begin(self) -> None:
        """Another half begins: it follows nobody."""
        self.region = None

    async def follow(self, region: str | None, url: str | None, epoch: int) -> None:
        """Follow a region, or nobody; in the latter case returns when what has arrived is in the journal, or after a
        bounded time. Raises Unavailable while no replica's half runs."""
        half = self._half
        if half is None:
            raise Unavailable("changing_role", "the replica's half does not run yet", place=region or "")
        half.follow(url)
        if region is not None and epoch > self._epoch:
            half.follower.heard_head = 0  # how far the primary of an older epoch was says nothing of this one
        if region is not None:
            self._epoch = epoch
        self.region = region
        if region is None:
            with trio.move_on_after(DRAIN_SECONDS):
                while not half.follower.is_drained:  # noqa: ASYNC110  # a plain fact, that sets no event
                    await trio.sleep(LOOK_SECONDS)

    def seen(self, epoch: int) -> str | None:
        """The region, as it is seen in ``epoch``: a session of an older epoch has to begin anew."""
        return self.region if self.region is None or self._epoch >= epoch else OLDER

    def honours(self, epoch: int) -> bool:
        """Whether a promise of ``epoch`` is kept by the feed's side."""
        half = self._half
        if half is None:
            return True
        return half.follower.is_drained and (self.region is None or self._epoch >= epoch)

    @property
    def is_settled(self) -> bool:
        """Whether all that was received durably is in the journal."""
        return self._half is None or self._half.follower.is_drained

    @property
    def is_diverged(self) -> bool:
        """Whether the region that is followed says that this chain is not its own."""
        return self._half is not None and self._half.refused in FORK_REASONS

    def heard(self) -> tuple[float | None, int]:
        """How long ago the feed was heard last, or began to be listened to, and how far it was; None: by no half."""
        if self._half is None:
            return None, 0
        follower = self._half.follower
        return trio.current_time() - max(follower.heard_at or self._began, self._began), follower.heard_head
