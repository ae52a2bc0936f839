"""Somebody leads: in automatic mode, and in fair weather, whenever a region could.

A region could lead while its process runs, its database and disk take writes, it reaches the lease store and so many
others that they have, with it, all that was acknowledged, and no budget forbids what would be lost. Once one and the
same region could have led for ``bound_seconds``, and nobody's fence was open meanwhile, the law is broken: a primary
that lives, and cannot write, keeps nobody from leading.
"""

from __future__ import annotations

from replicator.cluster.decisions.loss import refused
from replicator.cluster.decisions.states import FOLLOWS, RoleState
from replicator.ops.simulation.checks import BrokenLaw
from replicator.ops.simulation.faults import STORE
from replicator.ops.simulation.region import Cluster, SimulatedRegion
from replicator.ops.simulation.schedule import Task

LOOK_SECONDS = 0.1
BESIDE_SECONDS = 8.0  # beside lease and quiet: detection, a turn for each candidate, promises, verification, promotion


def bound_seconds(world: Cluster) -> float:
    """Within this somebody leads: the lease's time, the quiet after a change, and ``BESIDE_SECONDS``."""
    quiet = max(region.rules.quiet_seconds for region in world.regions.values())
    return world.ttl_seconds + quiet + BESIDE_SECONDS


def watch(world: Cluster) -> Task:
    """Look again and again, for ever. Raises BrokenLaw."""
    since: dict[str, float] = {}
    while True:
        is_led = any(region.is_open and not region.is_database_down for region in world.regions.values())
        for region in world.regions.values():
            if is_led or not could_lead(world, region):
                since.pop(region.name, None)
            elif world.now - since.setdefault(region.name, world.now) > bound_seconds(world):
                states = ", ".join(f"{other.name} is {other.memory.state}" for other in world.regions.values())
                raise BrokenLaw(f"nobody leads for {bound_seconds(world):.1f} s, and {region.name} could: {states}")
        yield LOOK_SECONDS


def could_lead(world: Cluster, region: SimulatedRegion) -> bool:
    """Whether nothing but its decisions keeps this region from leading now."""
    if world.store.is_away or not _runs(region) or not world.reach_each_other(region.name, STORE):
        return False
    rules = region.rules
    if region.is_database_down or region.disk_fails or rules.mode != "automatic":
        return False
    if region.memory.state in (RoleState.PAUSED, RoleState.REJOINING, RoleState.HALTED) or region.refused_by:
        return False
    others = [other for other in world.regions.values() if other is not region]
    reached = [other for other in others if _runs(other) and world.reach_each_other(region.name, other.name)]
    if len(reached) + 1 < rules.promises_needed:
        return False
    # A former primary takes no blocks: what others have more keeps it from leading until it has come back.
    follows = region.memory.half == "replica" and region.memory.state in FOLLOWS
    has_all = all(len(other.journal) <= len(region.journal) for other in reached)
    return (follows or has_all) and not refused(region.seen(), rules, None)


def _runs(region: SimulatedRegion) -> bool:
    return region.up and region.frozen_until <= region.world.now
