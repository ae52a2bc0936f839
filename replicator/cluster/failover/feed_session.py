"""Whom this region follows, since which epoch, and what that makes true of a promise.

Guarantee: ``honours(epoch)`` is true only once nothing of an older epoch can arrive any more, and all that has arrived
is in the journal: a report that shows the promise then shows all that this region will ever have of older epochs.
"""

from __future__ import annotations

import trio

from replicator.cluster.decisions.promises import FeedSession
from replicator.cluster.failover.region import RoleFlow
from replicator.errors import Unavailable

DRAIN_SECONDS = 2.0
LOOK_SECONDS = 0.005
FORK_REASONS = frozenset({"diverged", "ahead_of_primary"})


class SessionKeeper:
    """Keeps whom one region follows, over all parts of the flow that run one after another."""

    def __init__(self, flow: RoleFlow) -> None:
        self.session = FeedSession()
        self.last: str | None = None  # the region that was followed last
        self._flow = flow
        self._began = trio.current_time()

    @property
    def region(self) -> str | None:
        """The region that is followed; None for nobody."""
        return self.session.region

    def begin(self) -> None:
        """Another role's part of the flow begins: it follows nobody."""
        self.session = self.session.following(None, 0)

    async def follow(self, region: str | None, url: str | None, epoch: int) -> None:
        """Follow a region, or nobody; in the latter case returns when what has arrived is in the journal, or after a
        bounded time. Raises Unavailable while no replica's part of the flow runs."""
        replica = self._flow.replica
        if replica is None:
            raise Unavailable("changing_role", "the replica's half does not run yet", place=region or "")
        replica.follow(url)
        if region is not None and epoch > self.session.epoch:
            replica.forget_head()  # how far the primary of an older epoch was says nothing of this one
        self.session = self.session.following(region, epoch)
        self.last = region or self.last
        if region is None:
            with trio.move_on_after(DRAIN_SECONDS):
                while not replica.is_drained:  # noqa: ASYNC110  # a plain fact, that sets no event
                    await trio.sleep(LOOK_SECONDS)

    def honours(self, epoch: int) -> bool:
        """Whether a promise of ``epoch`` is kept by the feed's side."""
        replica = self._flow.replica
        return replica is None or self.session.honours(epoch, is_drained=replica.is_drained)

    @property
    def is_settled(self) -> bool:
        """Whether all that was received durably is in the journal."""
        return self._flow.replica is None or self._flow.replica.is_drained

    @property
    def is_diverged(self) -> bool:
        """Whether the region that is followed says that this chain is not its own."""
        return self._flow.replica is not None and self._flow.replica.refused in FORK_REASONS

    def heard(self) -> tuple[float | None, int]:
        """How long ago the feed was heard last, or began to be listened to, and how far it was. None where no replica
        runs."""
        replica = self._flow.replica
        if replica is None:
            return None, 0
        return trio.current_time() - max(replica.heard_at or self._began, self._began), replica.heard_head
