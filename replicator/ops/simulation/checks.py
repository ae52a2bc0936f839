"""The laws, each checked at the event that could break it. A broken one raises ``BrokenLaw``.

one writer       at any instant at most one region has an open fence and a usable permit; nothing is acknowledged in
                 an epoch once another region has opened in a newer one
nothing lost     what was acknowledged by K >= 1 regions is in the chain of every later primary, unless a person
                 allowed a loss; what was acknowledged with K = 0 is in the last chain or in a seal
equal            one block at an (epoch, sequence), wherever it is
forward          epochs and promises only grow; marks only go back by a rewind, and only over what is sealed
by order         in ``manual`` and ``shadow`` mode nobody stands by itself after another region has led
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.cluster.decisions.model import DurableState, Observation
from replicator.ops.simulation.chain import SimulatedBlock

if TYPE_CHECKING:
    from replicator.ops.simulation.region import SimulatedRegion
    from replicator.ops.simulation.world import World


class BrokenLaw(AssertionError):
    """A law does not hold."""


class LawChecks:
    """What has been promised to writers so far, and the checkers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.acknowledged: list[tuple[SimulatedBlock, int]] = []  # and by how many others it was said to be held
        self.kept: SimulatedBlock | None = None  # the last that no primary may lack
        self.newest_opened = 0
        self.opened_by: dict[int, str] = {}
        self.forgiven = 0
        self._asked: dict[str, bool] = {}
        self._at: dict[tuple[int, int], SimulatedBlock] = {}

    def opened(self, region: SimulatedRegion) -> None:
        """A fence was opened, or prolonged."""
        for other in self._world.regions.values():
            if other is not region and other.is_open:
                raise BrokenLaw(f"{region.name} and {other.name} can both write")
        epoch = region.permit_epoch
        if self.opened_by.setdefault(epoch, region.name) != region.name:
            raise BrokenLaw(f"epoch {epoch} was opened by {self.opened_by[epoch]} and by {region.name}")
        if epoch > self.newest_opened:
            self.newest_opened = epoch
            self._leads(region)

    def _leads(self, region: SimulatedRegion) -> None:
        kept = self.kept
        if kept is not None and not has(region, kept):
            if not self._world.loss_allowed(region):
                raise BrokenLaw(
                    f"{region.name} leads epoch {region.permit_epoch} without {kept!r}, which was acknowledged"
                )
            self.forgiven += 1
            while kept is not None and not has(region, kept):
                kept = kept.previous
            self.kept = kept

    def appended(self, block: SimulatedBlock) -> None:
        """A primary has made a block."""
        known = self._at.setdefault((block.epoch, block.sequence), block)
        if known is not block:
            raise BrokenLaw(f"there are two blocks at epoch {block.epoch}, sequence {block.sequence}")

    def answers(self, region: SimulatedRegion, block: SimulatedBlock) -> None:
        """A writer may be answered, if the region may still write."""
        if not region.is_open:
            return
        if region.permit_epoch < self.newest_opened:
            by = self.opened_by[self.newest_opened]
            raise BrokenLaw(
                f"{region.name} acknowledges {block!r} in an old epoch; {by} has opened {self.newest_opened}"
            )
        if not has(region, block):
            raise BrokenLaw(f"{region.name} acknowledges {block!r}, which it does not have")
        needed = region.rules.acknowledge
        self.acknowledged.append((block, needed))
        if needed and (self.kept is None or self.kept.sequence < block.sequence):
            if self.kept is not None and not has(region, self.kept):
                raise BrokenLaw(f"{region.name} acknowledges without having {self.kept!r}")
            self.kept = block
        self._world.answered(region, block)

    def remembers(self, region: SimulatedRegion, memory: DurableState) -> None:
        """A memory becomes durable."""
        before = region.memory
        for name in ("promised", "led"):
            if getattr(memory, name) < getattr(before, name):
                raise BrokenLaw(
                    f"{region.name}: {name} goes back from {getattr(before, name)} to {getattr(memory, name)}"
                )

    def stands(self, region: SimulatedRegion) -> None:
        """A region decides to stand."""
        self._asked[region.name] = region.order is not None

    def granted(self, region: SimulatedRegion) -> None:
        """A region has got the lease that it stood for; what it saw as it stood may have been old."""
        if self._asked[region.name] or region.rules.mode == "automatic":
            return
        last = max(self._world.regions.values(), key=lambda other: other.memory.led)
        if last.memory.led == 0:
            if region.memory.half == "replica":
                raise BrokenLaw(f"{region.name} stands unasked, and has never led")
        elif last is not region:
            raise BrokenLaw(f"{region.name} stands unasked in {region.rules.mode} mode; {last.name} led last")

    def rewound(self, region: SimulatedRegion, fork: int) -> None:
        """A journal is cut."""
        for block in region.journal[fork:]:
            if block not in region.sealed_ever:
                raise BrokenLaw(f"{region.name} rewinds {block!r}, which is not sealed")

    def refused_rewind(self, region: SimulatedRegion, seen: Observation) -> None:
        """A rewind was refused; it must have been decided in the belief that all is sealed."""
        if not seen.sealed:
            raise BrokenLaw(f"{region.name} would rewind what is not sealed")

    def end(self) -> None:
        """All is quiet: nothing that was acknowledged is nowhere."""
        regions = self._world.regions.values()
        leader = next(region for region in regions if region.is_open)
        for region in regions:
            if region.journal != leader.journal:
                raise BrokenLaw(f"{region.name} and {leader.name} differ")
        sealed = {block for region in regions for block in region.sealed_ever}
        for block, needed in self.acknowledged:
            if not has(leader, block) and block not in sealed:
                raise BrokenLaw(f"{block!r}, acknowledged with K={needed}, is nowhere")


def has(region: SimulatedRegion, block: SimulatedBlock) -> bool:
    """Whether a journal has a block."""
    return len(region.journal) >= block.sequence and region.journal[block.sequence - 1] is block
