"""The checkers can fail: each way of deciding wrong is caught by one of the histories that every test run lives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from replicator.cluster.decisions.decide import Decision, decide
from replicator.cluster.decisions.model import (
    CloseFence,
    DurableState,
    FailoverRules,
    Observation,
    OpenFence,
    RewindToFork,
    SealOrphans,
)
from replicator.cluster.decisions.states import RoleEvent, RoleState
from replicator.ops.simulation.checks import BrokenLaw
from replicator.ops.simulation.faults import STORE, SimulatedFault
from replicator.ops.simulation.liveness import watch
from replicator.ops.simulation.scenario import live
from replicator.ops.simulation.weather import FAIR
from replicator.ops.simulation.world import World
from tests.simulation.test_histories import SEEDS

Decide = Callable[[DurableState, Observation, FailoverRules], Decision]


def open_without_lease(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """A primary goes on as if its lease lasted for ever."""
    if memory.state is RoleState.PRIMARY:
        seen = dataclasses.replace(seen, granted=memory.epoch, usable_until=math.inf, lease=None)
    return decide(memory, seen, rules)


def without_promises(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Who holds the lease leads with what it has."""
    if memory.state in (RoleState.FENCING, RoleState.DRAINING):
        seen = dataclasses.replace(seen, peers={})
        rules = dataclasses.replace(rules, regions=(rules.me,), acknowledge=0)
    return decide(memory, seen, rules)


def too_few_promises(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """One promise less than is needed."""
    if memory.state in (RoleState.FENCING, RoleState.DRAINING) and rules.acknowledge:
        rules = dataclasses.replace(rules, acknowledge=min(rules.acknowledge + 1, len(rules.regions) - 1))
    return decide(memory, seen, rules)


def does_not_fetch(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """What the others have more is not fetched."""
    if memory.state is RoleState.DRAINING:
        seen = dataclasses.replace(
            seen,
            peers={
                name: heard._replace(report=dataclasses.replace(heard.report, head_epoch=0, sequence=0))
                for name, heard in seen.peers.items()
            },
        )
    return decide(memory, seen, rules)


def never_closes(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """A switchover hands over with an open fence."""
    if memory.state is RoleState.DEMOTING:
        seen = dataclasses.replace(seen, me=dataclasses.replace(seen.me, open=False), captured=True)
    step = decide(memory, seen, rules)
    return Decision(memory) if isinstance(step.action, CloseFence) else step


def longest_chain(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Chains compare by their length alone."""

    def flat(report: Any) -> Any:
        return dataclasses.replace(report, head_epoch=0)

    peers = {name: heard._replace(report=flat(heard.report)) for name, heard in seen.peers.items()}
    return decide(memory, dataclasses.replace(seen, me=flat(seen.me), peers=peers), rules)


def rewinds_unsealed(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Orphans are undone without a seal."""
    step = decide(memory, seen, rules)
    return step._replace(action=RewindToFork()) if isinstance(step.action, SealOrphans) else step


def believes_a_candidate(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Whoever holds the lease is a measure for orphans, though it has not led yet."""
    holder = seen.holder
    if holder is not None and holder.region in seen.peers:
        heard = seen.peers[holder.region]
        led = heard._replace(report=dataclasses.replace(heard.report, led=holder.epoch))
        seen = dataclasses.replace(seen, peers={**seen.peers, holder.region: led})
    return decide(memory, seen, rules)


def opens_early(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """The fence opens as soon as the lease is granted."""
    if memory.state is RoleState.DRAINING and not seen.me.open and memory.half == "primary":
        return Decision(memory, action=OpenFence(memory.epoch))
    return decide(memory, seen, rules)


def stale_claim(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """Every claim of a region counts as one that nobody else has led before."""
    if memory.state is RoleState.FENCING:
        return decide(dataclasses.replace(memory, mine=memory.epoch), seen, rules)
    step = decide(memory, seen, rules)
    if step.event is RoleEvent.GRANTED:
        return step._replace(memory=dataclasses.replace(step.memory, mine=memory.epoch))
    return step


def promises_too_early(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """An epoch is promised as soon as it is wanted."""
    step = decide(memory, seen, rules)
    if step.event is RoleEvent.STAND:
        return step._replace(memory=dataclasses.replace(step.memory, promised=step.memory.epoch))
    return step


def forgets_the_spool(memory: DurableState, seen: Observation, rules: FailoverRules) -> Decision:
    """A promotion waits for the journal, not for what was received and is not in it yet."""
    return decide(memory, dataclasses.replace(seen, settled=True), rules)


def forgets_promises(memory: DurableState, epoch: int) -> DurableState:
    """A promise that is not kept."""
    return memory


def no_promise(world: World) -> None:
    """Peers say yes, and go on as before."""
    world.promise = forgets_promises


# The seed from which on each is looked for: near one that has caught it.
DECISIONS: dict[Decide, int] = {
    open_without_lease: 0,
    without_promises: 5,
    too_few_promises: 200,
    does_not_fetch: 25,
    rewinds_unsealed: 0,
    believes_a_candidate: 350,
    opens_early: 30,
    stale_claim: 5,
    promises_too_early: 60,
    forgets_the_spool: 205,
}


def is_caught(first: int, **options: Any) -> bool:
    """Whether one of the histories that every test run lives breaks a law."""
    for seed in range(first, SEEDS):
        try:
            live(seed, **options)
        except AssertionError:  # Broken is one
            return True
    return False


@pytest.mark.parametrize("mutant", DECISIONS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_decision_is_caught(mutant: Decide) -> None:
    assert is_caught(DECISIONS[mutant], decide=mutant)


def test_peers_that_do_not_promise_are_caught() -> None:
    """Their blocks are never proven to be all that there are, so nobody may lead. Only asking tells one of them of the
    epoch: it does not reach the lease store."""
    world = three(decide, 0.3)
    world.spawn(world.outside, watch(world))
    coral = SimulatedFault(9.0, "partition", "coral", STORE, seconds=100.0)
    no_promise(world)
    with pytest.raises(BrokenLaw, match="nobody leads"):
        world.run([coral, SimulatedFault(10.0, "region_loss", seconds=100.0)], until=60.0)


def three(decide: Decide, write_every_seconds: float) -> World:
    """Three regions in fair weather, one of which has to acknowledge."""
    names = ("amber", "birch", "coral")
    common = FailoverRules("", names, mode="automatic", acknowledge=1, quiet_seconds=0.0, max_lost_blocks=1000)
    rules = {name: dataclasses.replace(common, me=name) for name in names}
    weather = dataclasses.replace(FAIR, write_every_seconds=write_every_seconds)
    return World(rules, seed=1, decide=decide, weather=weather)


def test_a_switchover_closes_first() -> None:
    for wrong in (False, True):
        world = three(never_closes if wrong else decide, write_every_seconds=1.0)
        plan = [SimulatedFault(5.0, "switchover", "amber", "birch")]
        if wrong:
            with pytest.raises(BrokenLaw):
                world.run(plan, until=20.0)
        else:
            world.run(plan, until=20.0)
            assert world.regions["birch"].is_open
            world.settle(20.0)


def isolated_primary(decide: Decide) -> World:
    """A primary that nobody hears goes on making blocks which nobody acknowledges, and is lost. Its successor
    acknowledges a few, and is lost as the old one returns with the longer chain."""
    world = three(decide, write_every_seconds=0.1)
    plan = [
        SimulatedFault(5.0, "partition", "amber", "birch", 5.0),
        SimulatedFault(5.0, "partition", "amber", "coral", 5.0),
        SimulatedFault(8.0, "region_loss", "amber", seconds=6.0),
        SimulatedFault(13.6, "region_loss", "", seconds=20.0),
    ]
    world.run(plan, until=30.0)
    return world


def test_the_longer_chain_of_an_older_epoch_does_not_win() -> None:
    world = isolated_primary(decide)
    assert world.outcome().acknowledged_lost == 0
    with pytest.raises(BrokenLaw):
        isolated_primary(longest_chain)
