"""A primary that lives and cannot write keeps nobody from leading: random plans of what takes its writes away."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from replicator.cluster.decisions import detector
from replicator.cluster.decisions.model import FailoverRules, HeardReport
from replicator.cluster.decisions.states import RoleState
from replicator.ops.simulation import region as simulated
from replicator.ops.simulation.checks import BrokenLaw
from replicator.ops.simulation.faults import STORE, SimulatedFault
from replicator.ops.simulation.liveness import bound_seconds, watch
from replicator.ops.simulation.world import World

NAMES = ("amber", "birch", "coral", "dune")
SEEDS = 80


def world_of(seed: int) -> World:
    """Two to four regions in fair weather, automatic, and whether somebody leads is watched."""
    dice = random.Random(seed)
    names = NAMES[: dice.choice([2, 3, 3, 4])]
    rules = FailoverRules(
        "",
        names,
        mode="automatic",
        acknowledge=dice.choice([0, 1]),
        quiet_seconds=dice.choice([0.0, 2.0, 5.0]),
        max_lost_blocks=1_000,
        step_seconds=6.0,
    )
    world = World({name: _named(rules, name) for name in names}, seed, dice.choice([1.0, 3.0]))
    world.spawn(world.outside, watch(world))
    return world


def _named(rules: FailoverRules, name: str) -> FailoverRules:
    return FailoverRules(**{field: getattr(rules, field) for field in rules.__slots__} | {"me": name})


def database_dead(seconds: float) -> SimulatedFault:
    return SimulatedFault(10.0, "database_crash", seconds=seconds)


def lease_store_cut(seconds: float) -> SimulatedFault:
    return SimulatedFault(10.0, "partition", other=STORE, seconds=seconds)


@pytest.mark.parametrize("fault", [database_dead, lease_store_cut])
def test_somebody_else_leads_and_the_old_one_comes_back(fault: Callable[[float], SimulatedFault]) -> None:
    """Its sidecar runs, its feed goes on, and it says that it cannot write."""
    for seed in range(20):
        world = world_of(seed)
        world.run([fault(60.0)], until=10.0 + bound_seconds(world))
        leaders = [region for region in world.regions.values() if region.is_open]
        assert [leader.name for leader in leaders] != ["amber"], f"seed {seed}"
        assert len(leaders) == 1, f"seed {seed}"
        assert not world.regions["amber"].is_open
        world.settle(60.0)
        assert world.regions["amber"].memory.state is RoleState.FOLLOWING


def test_whatever_takes_writes_away_somebody_leads_in_time() -> None:
    for seed in range(SEEDS):
        world = world_of(seed)
        dice = random.Random(seed + 1)
        plan = []
        for number in range(4):
            at, seconds = 5.0 + 12.0 * number + dice.uniform(0.0, 6.0), dice.choice([0.5, 3.0, 10.0, 30.0])
            kind = dice.choice([database_dead, database_dead, lease_store_cut, lease_store_cut, _lost, _frozen])
            plan.append(kind(seconds)._replace(at=at))
        try:
            world.run(plan, until=70.0)
            world.settle(60.0)
        except BrokenLaw as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def _lost(seconds: float) -> SimulatedFault:
    return SimulatedFault(0.0, "region_loss", seconds=seconds)


def _frozen(seconds: float) -> SimulatedFault:
    return SimulatedFault(0.0, "freeze", seconds=seconds)


def test_a_feed_alone_is_no_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch can fail: whoever took a primary's feed for its life would wait for it without end."""

    def by_its_feed(feed: float | None, followed: HeardReport | None, now: float) -> float | None:
        return feed if followed is None or followed.report.state is RoleState.PRIMARY else None

    monkeypatch.setattr(simulated, "heard_seconds", by_its_feed)
    assert detector.heard_seconds is not by_its_feed
    for fault in (database_dead, lease_store_cut):
        with pytest.raises(BrokenLaw, match="nobody leads"):
            world_of(3).run([fault(60.0)], until=70.0)
