"""Coming back: a region whose chain is not the primary's any more becomes a replica of it again.

    what the ledger committed last is captured ─▶ the fork is found ─▶ orphans are sealed ─▶ (a person looks) ─▶
    the ledger becomes a replica's ─▶ it is rewound to the fork ─▶ it follows

Guarantee: nothing is undone before it is sealed; killed at any instruction, a region that was being rewound goes on
with that before anything else opens its files. What no retry cures is told in ``stuck``.

The work is in ``rejoin`` and ``promotion``; here is its order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

import trio

from replicator.cluster.failover.region import Region
from replicator.cluster.rejoin.fork import Fork, find_fork
from replicator.cluster.rejoin.orphan_keys import OrphanKeys
from replicator.cluster.rejoin.rewind import Rewind
from replicator.cluster.rejoin.seal import OrphanSealer
from replicator.cluster.rejoin.undo_guard import UndoLimits, check_undo
from replicator.errors import Unavailable
from replicator.pipeline.feed.client import FeedClient
from replicator.pipeline.replay.replayer import Replayer
from replicator.storage.journal.sealed import Seal, SealedBlocks


class RejoinProcedure:
    """One region's way back. Only while no part of the flow runs, but for ``begin``."""

    def __init__(self, region: Region) -> None:
        self.stuck = ""
        self._region = region
        self._sealer = OrphanSealer(region.data_dir, region.journal, region.history, region.config.region.name)
        self._fork: Fork | None = None
        self._seal: Seal | None = None
        self._begun = self._done = False

    def begin(self) -> None:
        """Another return begins."""
        self.stuck, self._fork, self._seal = "", None, None
        self._begun = self._done = False

    @property
    def is_sealed(self) -> bool:
        """Whether nothing would be lost by undoing what only this region has."""
        return self._fork is not None and (self._begun or self._seal is not None or not self._fork.orphans)

    @property
    def is_rewound(self) -> bool:
        """Whether this region is a replica at the fork."""
        return self._done

    async def seal(self, url: str, *, was_primary: bool) -> None:
        """Find the fork with that region, and seal what only this one has. Raises Unavailable or Halted."""
        self._fork = await trio.to_thread.run_sync(self._rewind().pending)
        self._begun = self._fork is not None
        if self._begun:  # it was sealed before that began
            return
        # Before the fork is looked for: what the ledger committed last is on this chain, too, and nobody else has it.
        if was_primary:
            await self._region.adapter.capture_rest()
            self._region.look_again()
        async with FeedClient(self._region.upstream(url)) as client:
            fork = await find_fork(client, self._region.journal, self._region.strand)
            seal = await self._sealer.seal(fork, client) if fork.orphans else None
        self._fork, self._seal = fork, seal

    async def rewind(self, *, was_primary: bool, named: Collection[str] = ()) -> None:
        """Become a replica at the fork. ``named`` are the tables of which a person lets everything go. Raises
        Unavailable or Halted."""
        fork = self._fork
        if fork is None:
            raise Unavailable("not_sealed", "the fork is not known yet", place=self._region.strand)
        if self._seal is not None and not self._begun:  # before anything is changed: this region may be the right one
            await trio.to_thread.run_sync(self._check_undo, fork, self._seal, named)
        if was_primary:
            await self._region.adapter.adopt(fork.head)
        if not self._begun:  # once it has begun the tables may be at the fork, and would be brought away from it
            await trio.to_thread.run_sync(self._catch_up)
        await trio.to_thread.run_sync(self._rewind().run, self._seal, fork)
        self._done = True

    def _check_undo(self, fork: Fork, seal: Seal, named: Collection[str]) -> None:
        region, failover = self._region, self._region.config.failover
        with contextlib.closing(OrphanKeys(SealedBlocks(seal))) as touched:
            removed = touched.absent_before()
        rows = region.adapter.count_rows(removed.keys())
        limits = UndoLimits(failover.undo_rows, failover.undo_share)
        keeps_first_copy = region.adapter.is_whole(fork.position.sequence)
        check_undo(fork, removed, rows, limits, named, keeps_first_copy=keeps_first_copy)

    def _catch_up(self) -> None:
        """Apply what the ledger's tables do not have yet: they go back from where the journal is."""
        region, limits = self._region, self._region.config.replay
        replica = region.make_replica()
        replayer = Replayer(
            region.journal,
            replica,
            region.strand,
            limits.batch_bytes,
            limits.batch_blocks,
            prepare=region.adapter.withdraw,
        )
        try:
            replayer.open()
            while replayer.applied.position.sequence < region.journal_head.position.sequence:
                replayer.step()
        finally:
            replica.close()

    def _rewind(self) -> Rewind:
        region = self._region
        return Rewind(region.data_dir, region.journal, region.history, region.make_replica(), region.strand)
