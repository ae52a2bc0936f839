"""What a change of role asks of the region's ledger, whatever kind it is.

Guarantee asked of every kind: each step may be repeated, and may be interrupted at any instruction. No half of the flow
runs while a step does, save where it says so.
"""

from __future__ import annotations

from typing import Protocol

from replicator.cluster.fencing.base import Fence
from replicator.format.position import Position
from replicator.runtime.roles.pipeline import RolePipeline


class RoleAdapter(Protocol):
    """The ledger of a region of a cluster."""

    @property
    def fence(self) -> Fence:
        """What stands before its applications."""

    async def unfit(self) -> str:
        """Why this ledger could not be a primary's, empty if it could. Asked now and then while a replica runs."""

    async def promote(self, epoch: int, *, planned: bool) -> None:
        """Make it a primary's, at the journal's end, which is applied; it may begin the epoch in the journal.
        ``planned``: the old primary had closed, and its last values are all there. Raises Unavailable or Halted."""

    async def is_captured(self, half: RolePipeline | None, closing: float) -> bool:
        """Whether all that was committed before the fence closed is in the journal, by the primary's half. ``closing``
        tells one closing from the next."""

    async def capture_rest(self) -> None:
        """Bring into the journal what a former primary committed and did not capture; the fence is closed."""

    async def adopt(self, position: Position) -> None:
        """Make it a replica's, at this position, which is the journal's end."""
