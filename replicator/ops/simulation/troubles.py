"""Faults, orders and their ends, as they happen to a world."""

from __future__ import annotations

from replicator.cluster.decisions.model import Order
from replicator.cluster.decisions.states import RoleEvent
from replicator.ops.simulation.controller import start
from replicator.ops.simulation.executor import take_order
from replicator.ops.simulation.faults import ORDERS, STORE, SimulatedFault
from replicator.ops.simulation.region import Cluster, SimulatedRegion
from replicator.ops.simulation.tasks import pause


def begin(world: Cluster, fault: SimulatedFault) -> None:
    """Let it happen now."""
    region = _region(world, fault.region)
    world.note(region.name, fault.kind, f"{fault.other or ''} for {fault.seconds:.1f} s")
    if fault.kind in ORDERS:
        order(world, region, fault)
    elif fault.kind in ("region_loss", "sidecar_crash"):
        crash(world, region, fault.seconds)
    elif fault.kind in ("partition", "partition_one_way", "slow_link"):
        _links(world, region, fault)
    elif fault.kind == "lease_store_loss":
        world.store.is_away = True
        world.at(world.now + fault.seconds, _store_back, world)
    elif fault.kind == "freeze":
        region.frozen_until = max(region.frozen_until, world.now + fault.seconds)
    elif fault.kind == "clock_skew":
        region.set_rate(1.0 + fault.amount)
        world.at(world.now + fault.seconds, region.set_rate, 1.0)
    else:
        until = world.now + fault.seconds
        if fault.kind == "disk_full":
            region.disk_full_until = until
        elif fault.kind == "source_halt":
            region.source_halted_until = until
        elif fault.kind == "database_crash":
            region.database_down_until = until
        else:
            region.slow_until = until


def crash(world: Cluster, region: SimulatedRegion, seconds: float) -> None:
    """Kill its process, and start it again later."""
    if not region.up:
        return
    region.incarnation += 1
    region.up = False
    region.frozen_until = 0.0
    region.forget()
    world.at(world.now + seconds, restart, world, region)


def restart(world: Cluster, region: SimulatedRegion) -> None:
    """Start its process, if it does not run."""
    if not region.up:
        region.up = True
        world.note(region.name, "restarted", "")
        start(region)


def order(world: Cluster, region: SimulatedRegion, fault: SimulatedFault) -> None:
    """An operator's order."""
    if not region.up:
        return
    if fault.kind in ("pause", "resume"):
        event = RoleEvent.PAUSE if fault.kind == "pause" else RoleEvent.RESUME
        world.spawn(region, pause(region, event))
        return
    given = Order(
        fault.kind,  # type: ignore[arg-type]  # pause and resume are done
        0.0,
        target=fault.other or "",
        allow_data_loss=fault.allow_data_loss,
        reason=fault.reason,
    )
    world.deliver(region, take_order, region, given, fault.seconds)


def end(world: Cluster) -> None:
    """All faults are over: what is down starts, what is frozen thaws."""
    world.store.is_away = False
    world.mend()
    for region in world.regions.values():
        region.disk_full_until = region.database_down_until = region.slow_until = 0.0
        region.source_halted_until = 0.0
        region.set_rate(1.0)
        restart(world, region)


def _store_back(world: Cluster) -> None:
    world.store.is_away = False


def _links(world: Cluster, region: SimulatedRegion, fault: SimulatedFault) -> None:
    others = [fault.other] if fault.other else [*world.regions, STORE]
    for other in others:
        if other == region.name:
            continue
        for link in ((region.name, other), (other, region.name)):
            if fault.kind == "slow_link":
                world.slow(*link, fault.seconds, fault.amount or 0.5)
            else:
                world.cut(*link, fault.seconds)
                if fault.kind == "partition_one_way":
                    break


def _region(world: Cluster, name: str) -> SimulatedRegion:
    """The region of that name, or the present primary (the first, if there is none)."""
    if name:
        return world.regions[name]
    return max(world.regions.values(), key=lambda region: (region.is_open, region.memory.led))
