"""The world itself: a plan happens, what comes of it is told, and a fault does what its name says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from replicator.cluster.decisions.decide import Decision
from replicator.cluster.decisions.model import FailoverRules, Mode
from replicator.cluster.decisions.states import RoleState
from replicator.ops.simulation.checks import BrokenLaw
from replicator.ops.simulation.faults import KINDS, ORDERS, STORE, Kind, SimulatedFault
from replicator.ops.simulation.world import World

NAMES = ("amber", "birch", "coral")


def world_of(mode: Mode = "automatic", acknowledge: int = 1, seed: int = 7, **rules: Any) -> World:
    common = FailoverRules(
        "", NAMES, mode=mode, acknowledge=acknowledge, quiet_seconds=0.0, max_lost_blocks=1000, **rules
    )
    return World({name: dataclasses.replace(common, me=name) for name in NAMES}, seed)


def kinds(world: World) -> list[str]:
    return [event.kind for event in world.events]


def state_of(world: World, region: str) -> RoleState:
    return world.regions[region].memory.state


def test_the_loss_of_the_primary_runs_its_course() -> None:
    world = world_of()
    world.run([SimulatedFault(10.0, "region_loss", seconds=60.0)], until=30.0)
    course = kinds(world)[kinds(world).index("region_loss") :]
    steps = ["region_loss", "detected", "decided", "fenced", "drained", "promoted", "first_write"]
    places = [course.index(step) for step in steps]
    assert places == sorted(places)
    assert world.outcome().acknowledged_lost == 0
    world.settle(40.0)
    assert world.outcome().converged
    assert kinds(world)[-1] == "verified"


@pytest.mark.parametrize("mode", ["manual", "shadow"])
def test_nobody_leads_unasked(mode: Mode) -> None:
    world = world_of(mode)
    world.run([SimulatedFault(10.0, "region_loss", seconds=60.0)], until=30.0)
    assert not any(region.is_open for region in world.regions.values())
    world.run([SimulatedFault(30.0, "failover", "coral")], until=50.0)
    assert world.regions["coral"].is_open


def test_without_the_lease_store_nobody_leads_and_the_primary_comes_back() -> None:
    world = world_of()
    world.run([SimulatedFault(10.0, "lease_store_loss", seconds=20.0)], until=28.0)
    assert not any(region.is_open for region in world.regions.values())
    world.run([], until=40.0)
    assert world.regions["amber"].is_open


def test_a_primary_that_was_frozen_for_longer_than_its_lease_does_not_write() -> None:
    world = world_of()
    world.run([SimulatedFault(10.0, "freeze", "amber", seconds=20.0)], until=29.0)
    assert state_of(world, "amber") is RoleState.PRIMARY
    world.run([], until=35.0)
    assert state_of(world, "amber") is RoleState.FOLLOWING
    assert len([region for region in world.regions.values() if region.is_open]) == 1


def test_a_primary_behind_a_partition_keeps_its_blocks_for_a_person() -> None:
    world = world_of(acknowledge=0)
    plan = [SimulatedFault(10.0, "partition", "amber", name, 30.0) for name in ("birch", "coral", STORE)]
    world.run(plan, until=30.0)
    world.settle(40.0)
    outcome = world.outcome()
    assert outcome.acknowledged_lost
    assert outcome.sealed_blocks >= outcome.acknowledged_lost


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_and_order_ends_well(kind: Kind) -> None:
    world = world_of()
    other = "birch" if kind in ("switchover", "slow_link") else None
    region = "birch" if kind in ORDERS - {"switchover"} else ""
    world.run([SimulatedFault(10.0, kind, region, other, seconds=8.0, amount=0.01)], until=25.0)
    world.settle(60.0)
    assert kind in kinds(world)
    assert world.outcome().acknowledged_lost == 0


def test_a_world_that_does_not_converge_is_broken() -> None:
    world = world_of()
    world.run([SimulatedFault(19.0, "region_loss", "coral", seconds=30.0)], until=20.0)
    world.decide = lambda memory, seen, rules: Decision(memory)
    with pytest.raises(BrokenLaw, match="no convergence"):
        world.settle(10.0)
