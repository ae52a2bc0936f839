"""What the regions say of themselves, asked as an operator asks: over ``/v1/status``.

Guarantee: figures are the sidecars' own. A region that does not answer, or does not know yet, keeps its last ones.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from replicator.errors import Corrupt, ReplicatorError, Unavailable
from replicator.ops.demo.regions import DemoRegion, DemoRegions
from replicator.transport.client import Bounds, Client

POLL_SECONDS = 0.25
REACH_POLL_SECONDS = 0.05
ANSWER_SECONDS = 2.0
ANSWER_LIMIT_BYTES = 16_000_000
RATE_SECONDS = 2.0
_GRAVE = ("halted", "stuck", "waiting")


@dataclasses.dataclass(slots=True)
class RegionState:
    """A region as it is shown. ``lag_seconds`` None is not known; ``rate`` is in blocks a second.

    ``state`` is its state in failover, and ``is_open`` whether it takes writes.
    """

    name: str
    role: str
    condition: str = "starting"
    sequence: int = 0
    lag_blocks: int | None = None
    lag_seconds: float | None = None
    rate: float = 0.0
    verified: str = "-"
    applied_blocks: int | None = None
    state: str = ""
    is_open: bool = False


class RegionWatch:
    """Asks all regions, again and again. Raises ReplicatorError if a sidecar ended by itself."""

    def __init__(self, regions: DemoRegions) -> None:
        self._regions = regions
        self._samples: dict[str, deque[tuple[float, int]]] = {region.name: deque() for region in regions.all}
        self.states = {region.name: RegionState(region.name, region.role) for region in regions.all}

    async def run(self) -> None:
        """Keep ``states`` fresh."""
        while True:
            async with trio.open_nursery() as nursery:
                for region in self._regions.all:
                    nursery.start_soon(self._ask, region)
            await trio.sleep(POLL_SECONDS)

    async def until(self, region: DemoRegion, is_so: Callable[[RegionState], bool], what: str, seconds: float) -> None:
        """Return once the region answers and is so. Raises Unavailable if that takes too long."""
        state = self.states[region.name]
        with trio.move_on_after(seconds):
            while True:
                if await self._ask(region) is not None and is_so(state):
                    return
                await trio.sleep(REACH_POLL_SECONDS)
        message = f"it does not {what} within {seconds:.0f} s; it is {state.state or state.condition}"
        raise Unavailable("not_reached", message, place=f"region {region.name}", cure="see the region's log")

    async def reach(self, region: DemoRegion, sequence: int, seconds: float) -> None:
        """Return once the region answers and has applied the sequence. Raises Unavailable if that takes too long."""
        state = self.states[region.name]
        with trio.move_on_after(seconds):
            while True:
                applied = await self._ask(region)
                if applied is not None and applied >= sequence:
                    return
                await trio.sleep(REACH_POLL_SECONDS)
        message = f"sequence {sequence} was not applied within {seconds:.0f} s; it is {state.condition}"
        raise Unavailable("not_reached", message, place=f"region {region.name}", cure="see the region's log")

    async def _ask(self, region: DemoRegion) -> int | None:
        """What it has applied; None if it does not answer."""
        region.check_runs()
        state = self.states[region.name]
        try:
            async with Client(region.endpoint, Bounds(ANSWER_SECONDS, ANSWER_LIMIT_BYTES)) as client:
                status = await client.json("GET", "/v1/status")
        except (Unavailable, Corrupt):
            state.condition = "killed" if region.is_killed else "starting"
            return None
        try:
            if (failover := status.get("failover")) is None:  # it has just begun
                return None
            state.role = str(status["role"])
            state.state, state.is_open = str(failover["state"]), bool(failover["fence_open"])
            return self._take(state, status["strands"][0])
        except (KeyError, TypeError, IndexError) as error:
            message = f"its status is another one than expected: {error!r}"
            raise ReplicatorError("bad_status", message, place=f"region {region.name}", cure="see its log") from error

    def _take(self, state: RegionState, strand: dict[str, Any]) -> int:
        applied: int = strand["marks"]["applied"] or 0
        conditions = {stage["condition"] for stage in strand["stages"]}
        worst = next((condition for condition in _GRAVE if condition in conditions), None)
        state.condition = worst or ("working" if "working" in conditions else "idle")
        state.sequence = max(applied, state.sequence)
        state.lag_blocks, state.lag_seconds = strand["lag"]["blocks"], strand["lag"]["seconds"]
        state.applied_blocks = strand["applied_blocks"]
        state.rate = self._rate(state)
        return applied

    def _rate(self, state: RegionState) -> float:
        samples = self._samples[state.name]
        samples.append((trio.current_time(), state.sequence))
        while len(samples) > 2 and samples[-1][0] - samples[1][0] >= RATE_SECONDS:
            samples.popleft()
        (since, first), (until, last) = samples[0], samples[-1]
        return max(0.0, (last - first) / (until - since)) if until > since else 0.0
