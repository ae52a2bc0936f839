"""How a history ends: no faults any more, the orders that are needed, and everybody has converged in time."""

from __future__ import annotations

from replicator.cluster.decisions.states import RoleState
from replicator.ops.simulation.checks import BrokenLaw, LawChecks
from replicator.ops.simulation.faults import SimulatedFault
from replicator.ops.simulation.region import Cluster, SimulatedRegion
from replicator.ops.simulation.schedule import Task
from replicator.ops.simulation.troubles import end, order
from replicator.ops.simulation.weather import FAIR

LAST_WRITES_SECONDS = 1.0


def settle(world: Cluster, checks: LawChecks, within_seconds: float) -> None:
    """Let the world come to rest; Broken if it does not, or if something is missing then."""
    world.weather = FAIR
    end(world)
    answered = len(checks.acknowledged)
    world.spawn(world.outside, _operators(world))
    world.pass_time(world.now + within_seconds, lambda: _leads_again(world, checks, answered))
    world.is_quiet = True  # writers stop, so that heads can be equal
    world.pass_time(world.now + within_seconds, world.is_converged)
    if not world.is_converged():
        raise BrokenLaw(f"no convergence within {within_seconds:.0f} s: {_states(world)}")
    if len(checks.acknowledged) == answered:
        raise BrokenLaw("nobody can write at the end")
    checks.end()
    world.note("", "verified", "all regions are equal")


def _leads_again(world: Cluster, checks: LawChecks, answered: int) -> bool:
    return len(checks.acknowledged) > answered + 3


def _states(world: Cluster) -> str:
    return ", ".join(
        f"{region.name}: {region.memory.state} at {len(region.journal)}+{len(region.spool)}, applied {region.applied},"
        f" follows {region.session.region} {region.refused_by} ({region.memory.why})"
        for region in world.regions.values()
    )


def _operators(world: Cluster) -> Task:
    """Resume what is paused, let rejoin who waits for it, and name a primary where none is found without a person."""
    led_at = world.now
    while True:
        yield 0.5
        regions = list(world.regions.values())
        for region in regions:
            if region.memory.state is RoleState.PAUSED:
                order(world, region, SimulatedFault(0.0, "resume"))
            if region.memory.state in (RoleState.REJOINING, RoleState.HALTED) and region.rules.rejoin == "manual":
                order(world, region, SimulatedFault(0.0, "rejoin"))
        if any(region.is_open for region in regions):
            led_at = world.now
        patience = 2 * world.ttl_seconds
        waited = world.now - led_at
        asks_a_person = any(region.rules.mode != "automatic" for region in regions)
        if waited > patience + (0.0 if asks_a_person else 12.0):  # automatic: the loss budget keeps all from leading
            is_allowed = waited > patience + 6.0
            reason = world.dice.choice(["", "an operator"])  # whoever says none is refused, and asked again
            given = SimulatedFault(0.0, "failover", seconds=5.0, allow_data_loss=is_allowed, reason=reason)
            order(world, _best(regions), given)


def _best(regions: list[SimulatedRegion]) -> SimulatedRegion:
    """The region with the most."""
    return max(regions, key=lambda region: (region.head.epoch if region.head else 0, len(region.journal)))
