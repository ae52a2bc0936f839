"""The end of a drill: what every region holds of the canaries, and whether it equals the primary.

Guarantee: regions are compared row for row at one position (``verify``); what could not be compared is told as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import trio

from replicator.errors import ReplicatorError
from replicator.ops.drills.canary import Canaries
from replicator.ops.drills.regions import DeploymentRegions
from replicator.ops.drills.report.live import FinalRegion
from replicator.ops.drills.rules.observations import RegionObservations
from replicator.supervise import first_cause
from replicator.transport.endpoint import Endpoint
from replicator.verify.check import verify

LOOK_SECONDS = 0.05


class Comparison(NamedTuple):
    """How a region compares with the primary: equal, divergent, or why it could not be compared."""

    outcome: str
    position: str = ""
    digests: dict[str, str] = {}  # noqa: RUF012  # never changed
    reference: dict[str, str] = {}  # noqa: RUF012  # the primary's, at that position


async def compare(primary: Endpoint, region: Endpoint) -> Comparison:
    """Compare a region with the primary. Never raises for what the regions say."""
    comparison = Comparison("")
    try:
        verdict = await verify(primary, region, 0)
        comparison = Comparison(
            verdict.result,
            str(verdict.position),
            {table.table: table.replica_digest for table in verdict.tables},
            {table.table: table.primary_digest for table in verdict.tables},
        )
    except* ReplicatorError as group:
        comparison = Comparison(f"could not be compared: {first_cause(group)}")
    return comparison


async def observe_final_regions(
    regions: DeploymentRegions, observations: RegionObservations, canaries: Canaries, patience_seconds: float
) -> list[FinalRegion]:
    """Every region as it is in the end, compared with the one that leads."""
    leader = observations.leader
    comparisons: dict[str, Comparison] = {}
    for name, place in regions.places.items():
        if leader is None:
            comparisons[name] = Comparison("nobody leads")
        elif name != leader:
            await _await_catch_up(canaries, leader, name, patience_seconds)
            comparisons[name] = await compare(regions.places[leader], place)
    if leader is not None:
        comparisons[leader] = _reference(list(comparisons.values()))
    return [
        FinalRegion(
            name,
            place.url,
            await canaries.held(name),
            observations.latest[name].sequence,
            comparisons[name].position,
            comparisons[name].outcome,
            comparisons[name].digests,
            canaries.visible[name],
        )
        for name, place in regions.places.items()
    ]


def _reference(comparisons: Sequence[Comparison]) -> Comparison:
    """The primary, at the position of the last comparison."""
    last = next((comparison for comparison in reversed(comparisons) if comparison.reference), Comparison(""))
    return Comparison("reference", last.position, last.reference)


async def _await_catch_up(canaries: Canaries, leader: str, name: str, patience_seconds: float) -> None:
    """Wait until a region shows the last canary, unless the primary itself does not have it."""
    if not canaries.acknowledged:
        return
    last = canaries.acknowledged[-1].number
    with trio.move_on_after(patience_seconds):
        while not await canaries.holds(name, last) and await canaries.holds(leader, last) is not False:  # noqa: ASYNC110
            await trio.sleep(LOOK_SECONDS)
