"""Writers that wait, in one time of a region as primary, until enough other regions have their block.

Who has enough is counted by the running sidecar's own ``AcknowledgeTally``.
"""

from __future__ import annotations

from collections import deque

from replicator.ops.simulation.chain import SimulatedBlock
from replicator.pipeline.acknowledge.tally import AcknowledgeRule, AcknowledgeTally


class Writers:
    """Those who wait. ``needed`` other regions have to have a block; 0: its writer is answered at once."""

    def __init__(self, needed: int, head: int) -> None:
        self._tally = AcknowledgeTally(AcknowledgeRule(needed), head, now=0.0) if needed else None
        self._waiting: deque[SimulatedBlock] = deque()
        self._stopped = False

    def wrote(self, block: SimulatedBlock) -> None:
        """A block is durable here, and its writer waits."""
        if not self._stopped:
            self._waiting.append(block)
        if self._tally is not None:
            self._tally.store(block.sequence, now=0.0)  # no time passes for it: nobody degrades here

    def reported(self, region: str, sequence: int) -> None:
        """A region has everything up to ``sequence`` durably."""
        if self._tally is not None:
            self._tally.report(region, sequence)

    def released(self) -> list[SimulatedBlock]:
        """The blocks whose writers need not wait any longer, in order; they wait no more."""
        waiting, tally = self._waiting, self._tally
        blocks = []
        while waiting and (tally is None or waiting[0].sequence <= tally.released):
            blocks.append(waiting.popleft())
        return blocks

    def stop(self) -> None:
        """Whoever waits, or comes, is told that the outcome is not known."""
        self._stopped = True
        self._waiting.clear()
