"""The laws, each checked at the event that could break it. A broken one raises ``BrokenLaw``.

one writer       at any instant at most one region has an open fence; nothing is acknowledged in an epoch once another
                 region has opened in a newer one
within a lease   a fence is never opened for longer than the store keeps the lease for that region, by the slowest clock
nothing lost     what was acknowledged by K >= 1 regions is in the chain of every later primary, unless a person
                 allowed a loss; what was acknowledged with K = 0 is in the last chain or in a seal
equal            one block at an (epoch, sequence), wherever it is
forward          epochs and promises only grow; marks only go back by a rewind, and only over what is sealed
first copy       no region leads without it but the one whose ledger it is of, and it is never undone
by order         in ``manual`` and ``shadow`` mode nobody stands by itself after another region has led; an order moves
                 a region once, while it counts, and allows a loss only for a reason
"""

from __future__ import annotations

from replicator.cluster.decisions.model import DurableState, Order
from replicator.cluster.decisions.states import RoleEvent
from replicator.cluster.decisions.step import Decision
from replicator.ops.simulation.chain import SimulatedBlock
from replicator.ops.simulation.region import COPY, Cluster, SimulatedRegion

ROUNDING_SECONDS = 1e-6


class BrokenLaw(AssertionError):
    """A law does not hold."""


class LawChecks:
    """What has been promised to writers so far, and the checkers."""

    def __init__(self, world: Cluster) -> None:
        self._world = world
        self.acknowledged: list[tuple[SimulatedBlock, int]] = []  # and by how many others it was said to be held
        self.kept: SimulatedBlock | None = None  # the last that no primary may lack
        self.newest_opened = 0
        self.opened_by: dict[int, str] = {}
        self.forgiven = 0
        self._asked: dict[str, bool] = {}
        self._at: dict[tuple[int, int], SimulatedBlock] = {}
        self._moved_by: dict[tuple[str, str], Order] = {}
        self._given: dict[
            str, tuple[Order, SimulatedBlock | None]
        ] = {}  # each region's last order, and what was kept then
        self._allowed: dict[str, SimulatedBlock | None] = {}  # who stands by leave to lose, up to here

    def opened(self, region: SimulatedRegion) -> None:
        """A fence was opened, or prolonged."""
        for other in self._world.regions.values():
            if other is not region and other.is_open:
                raise BrokenLaw(f"{region.name} and {other.name} can both write")
        epoch = region.fence_epoch
        self._lease_lasts(region, epoch)
        if not region.is_whole and region.name != self._world.copier:
            raise BrokenLaw(f"{region.name} leads in epoch {epoch}, and the first copy has not reached it")
        if self.opened_by.setdefault(epoch, region.name) != region.name:
            raise BrokenLaw(f"epoch {epoch} was opened by {self.opened_by[epoch]} and by {region.name}")
        if epoch > self.newest_opened:
            self.newest_opened = epoch
            self._leads(region)

    def _lease_lasts(self, region: SimulatedRegion, epoch: int) -> None:
        """The store gives the lease to nobody else before the fence is closed, and ``margin_seconds`` more, however
        slowly the region's clock may run from now on."""
        world = self._world
        closed_at = world.now + (region.fence_until - region.clock()) / (1 - world.clock_error) + world.margin_seconds
        holder = world.store.look(closed_at - ROUNDING_SECONDS).holder  # if nobody asks it for anything until then
        if holder is None or holder[:2] != (region.name, epoch):
            raise BrokenLaw(f"{region.name} may write in epoch {epoch} when another region can have the lease")

    def _leads(self, region: SimulatedRegion) -> None:
        kept = self.kept
        if kept is not None and not has(region, kept):
            if not self._may_lose(region, kept):
                raise BrokenLaw(
                    f"{region.name} leads epoch {region.fence_epoch} without {kept!r}, which was acknowledged"
                )
            self.forgiven += 1
            while kept is not None and not has(region, kept):
                kept = kept.previous
            self.kept = kept

    def _may_lose(self, region: SimulatedRegion, kept: SimulatedBlock) -> bool:
        """Whether ``kept`` was there when a person gave the order by which this region may lose something."""
        block = self._allowed.get(region.name)
        while block is not None and block.sequence > kept.sequence:
            block = block.previous
        return block is kept

    def appended(self, block: SimulatedBlock) -> None:
        """A primary has made a block."""
        known = self._at.setdefault((block.epoch, block.sequence), block)
        if known is not block:
            raise BrokenLaw(f"there are two blocks at epoch {block.epoch}, sequence {block.sequence}")

    def answers(self, region: SimulatedRegion, block: SimulatedBlock) -> None:
        """A writer is answered."""
        if region.fence_epoch < self.newest_opened:
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

    def decided(self, region: SimulatedRegion, step: Decision) -> None:
        """What an order makes a region do it does once, while the order counts."""
        order = region.order
        if order is None:
            return
        if step.event is RoleEvent.STAND and order.verb in ("failover", "take"):
            deed = "stands"
        elif step.event is RoleEvent.HAND_OVER:
            deed = "hands over"
        elif step.memory.approved and not region.memory.approved and order.verb == "rejoin":
            deed = "rejoins"
        else:
            return
        if self._moved_by.get((region.name, deed)) is order:
            raise BrokenLaw(f"{region.name} {deed} a second time by one order to {order.verb}")
        self._moved_by[region.name, deed] = order
        if order.until <= region.clock():
            raise BrokenLaw(f"{region.name} {deed} by an order that is over")
        if deed == "stands" and order.allow_data_loss and not order.reason.strip():
            raise BrokenLaw(f"{region.name} {deed} by an order that allows a loss for no reason")

    def ordered(self, region: SimulatedRegion, order: Order) -> None:
        """An order is taken."""
        self._given[region.name] = order, self.kept

    def stands(self, region: SimulatedRegion) -> None:
        """A region decides to stand. Whoever is already on the way is given no leave to lose anything."""
        order = region.order
        self._asked[region.name] = order is not None
        self._allowed.pop(region.name, None)
        if order is not None and order.allow_data_loss:
            self._allowed[region.name] = self._given[region.name][1]

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
            if block.what.endswith(COPY):
                raise BrokenLaw(f"{region.name} undoes the first copy")
            if block not in region.sealed_ever:
                raise BrokenLaw(f"{region.name} rewinds {block!r}, which is not sealed")

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
