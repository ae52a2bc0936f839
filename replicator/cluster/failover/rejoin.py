"""Coming back: a region whose chain is not the primary's any more becomes a replica of it again.

    what the ledger committed last is captured ─▶ the fork is found ─▶ orphans are sealed ─▶ (a person looks) ─▶
    the ledger becomes a replica's ─▶ it is rewound to the fork ─▶ it follows

Guarantee: nothing is undone before it is sealed; killed at any instruction, a region that was being rewound goes on
with that before anything else opens its files. What no retry cures is told in ``stuck``.

The work is in ``rejoin`` and ``promotion``; here is its order.
"""

from __future__ import annotations

import trio

from replicator.cluster.failover.role_adapter import RoleAdapter
from replicator.cluster.rejoin.fork import Fork, find_fork
from replicator.cluster.rejoin.rewind import Rewind
from replicator.cluster.rejoin.seal import OrphanSealer
from replicator.config import Config
from replicator.config.roles import in_role
from replicator.errors import Unavailable
from replicator.pipeline.feed.client import FeedClient
from replicator.pipeline.replay.apply import Replayer
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.storage.journal.sealed import Seal


class RejoinProcedure:
    """One region's way back. Only while no half of the flow runs, but for ``begin``."""

    def __init__(self, core: RegionContext, config: Config, ledger: RoleAdapter) -> None:
        self.stuck = ""
        self._core, self._config, self._ledger = core, config, ledger
        self._sealing = OrphanSealer(core.data_dir, core.journal, core.history, config.region.name)
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
        if was_primary:
            await self._ledger.capture_rest()
            self._core.look_again()
        upstream = wiring.upstream(self._config, url)
        assert upstream is not None
        async with FeedClient(upstream) as client:
            fork = await find_fork(client, self._core.journal, self._core.strand)
            seal = await self._sealing.seal(fork, client) if fork.orphans else None
        self._fork, self._seal = fork, seal

    async def rewind(self, *, was_primary: bool) -> None:
        """Become a replica at the fork. Raises Unavailable or Halted."""
        fork = self._fork
        if fork is None:
            raise Unavailable("not_sealed", "the fork is not known yet", place=self._core.strand)
        if was_primary:
            await self._ledger.adopt(fork.head)
        if not self._begun:
            await trio.to_thread.run_sync(self._catch_up)
        await trio.to_thread.run_sync(self._rewind().run, self._seal, fork)
        self._done = True

    def _catch_up(self) -> None:
        """Apply what the ledger's tables do not have yet: they go back from where the journal is."""
        replica = wiring.replica(in_role(self._config, "replica", 1))
        limits = self._config.replay
        replayer = Replayer(self._core.journal, replica, self._core.strand, limits.batch_bytes, limits.batch_blocks)
        try:
            replayer.open()
            while replayer.applied.position.sequence < self._core.tail.head.sequence:
                replayer.step()
        finally:
            replica.close()

    def _rewind(self) -> Rewind:
        core = self._core
        config = in_role(self._config, "replica", 1)
        replica = wiring.replica(config)
        requests, spool = core.data_dir / "requests.sqlite3", config.region.spool_path
        has_requests = requests if requests.exists() else None
        return Rewind(core.data_dir, core.journal, core.history, replica, core.strand, has_requests, spool)
