"""The simulation calculates nothing by itself that the running sidecar calculates: a mistake there breaks a law here.

Each mutant is put in the place of the sidecar's own function, and is caught by one of the thousand seeds that every
test run lives, or by a plan that leads up to what it gets wrong. Five of the events that end an order have no mutant:
after them a region leads again only through ``PROMOTED``, which ends the order, too, or the order's time is over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest

from replicator.cluster.decisions import candidate, detector, held_lease, model, orders, promises, states
from replicator.cluster.decisions.model import DurableState, MemberReport, Order
from replicator.cluster.decisions.states import ENDS_ORDERS, RoleEvent, RoleState
from replicator.cluster.failover import controller, feed_session, lease_keeper, member_report, observe
from replicator.cluster.failover import executor as carrying_out
from replicator.cluster.leases import base, record
from replicator.cluster.leases.base import Grant, LeaseView, usable_until
from replicator.ops.simulation import controller as deciding
from replicator.ops.simulation import executor, region, tasks, world
from replicator.ops.simulation.checks import BrokenLaw
from replicator.ops.simulation.faults import STORE, SimulatedFault
from replicator.ops.simulation.world import World
from replicator.pipeline.acknowledge import tally
from tests.simulation.test_mutants import is_caught
from tests.simulation.test_world import world_of

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


# -- orders


def orders_over_a_held_lease(patch: Patch) -> None:
    """A failover is taken while a primary holds the lease, and is carried out once that is lost."""

    def check(order: Order, memory: DurableState, me: MemberReport, lease: LeaseView | None, *others: Any) -> None:
        free = None if lease is None else lease._replace(holder=None)
        orders.check_order(order, memory, me, free, *others)

    patch.setattr(executor, "check_order", check)


def orders_without_a_reason(patch: Patch) -> None:
    """A loss is allowed for no reason."""

    def check(order: Order, *seen: Any) -> None:
        orders.check_order(dataclasses.replace(order, reason="none"), *seen)

    patch.setattr(executor, "check_order", check)


def all_orders_are_taken(patch: Patch) -> None:
    """Nothing is checked."""
    patch.setattr(executor, "check_order", lambda *seen: None)


def without(event: RoleEvent) -> Mutant:
    """An event after which the order still stands."""

    def forgets(patch: Patch) -> None:
        patch.setattr(deciding, "ENDS_ORDERS", ENDS_ORDERS - {event})

    forgets.__name__ = f"without_{event.name.lower()}"
    return forgets


# -- the lease, and the fence


def clocks_are_right(patch: Patch) -> None:
    """The end of a lease does not allow for clocks that differ."""
    patch.setattr(held_lease, "usable_until", lambda grant, error, margin: usable_until(grant, 0.0, margin))


def stops_at_the_last_moment(patch: Patch) -> None:
    """The end of a lease leaves no time to stop."""
    patch.setattr(held_lease, "usable_until", lambda grant, error, margin: usable_until(grant, error, 0.0))


def an_old_grant_counts(patch: Patch) -> None:
    """A grant that was read from a file counts before the store has renewed it."""

    def from_json(fields: dict[str, Any]) -> Grant:
        return Grant(**{**fields, "asked_at": 10_000.0})

    patch.setattr(Grant, "from_json", from_json)


def a_renewal_opens_in_any_epoch(patch: Patch) -> None:
    """A renewal opens the fence, whatever was decided."""
    prolong = held_lease.HeldLease.prolong

    def prolonged(held: held_lease.HeldLease) -> float | None:
        return prolong(held) if held.grant is None else held.open(held.grant.epoch)

    def opened(held: held_lease.HeldLease, epoch: int) -> float | None:
        held._opened_epoch = epoch
        return prolong(held)

    patch.setattr(held_lease.HeldLease, "open", opened)
    patch.setattr(held_lease.HeldLease, "prolong", prolonged)


def a_renewal_opens_what_was_closed(patch: Patch) -> None:
    """A fence that was closed is prolonged all the same."""
    patch.setattr(held_lease.HeldLease, "begin_closing", lambda held: None)


def claims_are_not_compared(patch: Patch) -> None:
    """A claim takes the lease from whoever holds it."""
    patch.setattr(record, "may_claim", lambda *claim: None)


def the_store_ends_it_early(patch: Patch) -> None:
    """The store gives the lease away a fifth of its time too soon."""
    view = record.LeaseRecord.view
    early = lambda held, at: view(held._replace(ttl_seconds=held.ttl_seconds * 0.8), at)  # noqa: E731
    patch.setattr(record.LeaseRecord, "view", early)


def the_token_stays(patch: Patch) -> None:
    """A primary that calls a switchover off leaves its claim as the target knows it."""
    kept_mine = record.LeaseRecord.kept_mine
    same = lambda held, grant, token, at, place: kept_mine(held, grant, grant.token, at, place)  # noqa: E731
    patch.setattr(record.LeaseRecord, "kept_mine", same)


# -- the first copy


def an_empty_region_may_lead(patch: Patch) -> None:
    """A region that the first copy has not reached may lead with what it has."""
    patch.setattr(region, "why_not_without_copy", lambda half, source_trouble, is_copying: "")


# -- promises, and who has what


def promises_before_draining(patch: Patch) -> None:
    """A promise counts before what was received is in the journal."""
    honours = promises.FeedSession.honours
    early = lambda session, epoch, is_drained: honours(session, epoch, is_drained=True)  # noqa: E731
    patch.setattr(promises.FeedSession, "honours", early)


def promises_at_once(patch: Patch) -> None:
    """A promise is reported as soon as it is made."""
    patch.setattr(region, "kept_promise", lambda memory, is_open, honours: memory.promised)


def one_region_less(patch: Patch) -> None:
    """Writers are answered when one region less than is needed has their block."""
    acknowledged = tally.acknowledged

    def less(reports: Mapping[str, int], count: int) -> int:
        return acknowledged(reports, count - 1) if count > 1 else max(reports.values(), default=0) + 1

    patch.setattr(tally, "acknowledged", less)


def nobody_waits(patch: Patch) -> None:
    """A writer is answered as soon as its block is durable here."""
    patch.setattr(tally.AcknowledgeTally, "_release", lambda counted: setattr(counted, "released", counted.stored))


# The seed from which on each is looked for: near one that has caught it.
MUTANTS: dict[Mutant, int] = {
    orders_over_a_held_lease: 330,
    orders_without_a_reason: 0,
    all_orders_are_taken: 50,
    without(RoleEvent.LOST): 300,
    without(RoleEvent.REFUSED): 590,
    clocks_are_right: 0,
    stops_at_the_last_moment: 0,
    an_old_grant_counts: 0,
    a_renewal_opens_in_any_epoch: 0,
    a_renewal_opens_what_was_closed: 95,
    claims_are_not_compared: 30,
    the_store_ends_it_early: 0,
    promises_before_draining: 200,
    promises_at_once: 200,
    one_region_less: 110,
    nobody_waits: 45,
    an_empty_region_may_lead: 0,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_calculation_is_caught(mutant: Mutant, monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    assert is_caught(MUTANTS[mutant])


@pytest.mark.parametrize(
    ("name", "home", "users"),
    [
        ("check_order", orders, (executor, controller)),
        ("take_over", orders, (executor, carrying_out)),
        ("present_order", orders, (region, observe)),
        ("ENDS_ORDERS", states, (deciding, controller)),
        ("BEGINS_RETURN", states, (deciding, controller)),
        ("usable_until", base, (held_lease,)),
        ("HeldLease", held_lease, (region, lease_keeper)),
        ("FeedSession", promises, (region, feed_session)),
        ("kept_promise", promises, (region, member_report)),
        ("breaks_promise", promises, (tasks, controller)),
        ("heard_seconds", detector, (region, member_report)),
        ("why_not_without_copy", candidate, (region, member_report)),
        ("first_state", model, (world, controller)),
    ],
)
def test_the_simulation_has_the_sidecars_own(name: str, home: ModuleType, users: tuple[ModuleType, ...]) -> None:
    assert all(getattr(user, name) is getattr(home, name) for user in users)


# -- what takes a plan that leads up to it


def called_off(seed: int) -> World:
    """A switchover is called off while the target's claim is on its way to the lease store."""
    cluster = world_of(seed=seed)
    slow = SimulatedFault(4.9, "slow_link", "birch", STORE, seconds=10.0, amount=0.4)
    cluster.run([slow, SimulatedFault(5.0, "switchover", "amber", "birch", seconds=1.0)], until=15.0)
    return cluster


def test_a_claim_after_the_switchover_was_called_off_fails(monkeypatch: Patch) -> None:
    for cluster in map(called_off, range(8)):
        assert sum(each.is_open for each in cluster.regions.values()) == 1
    the_token_stays(monkeypatch)
    with pytest.raises(BrokenLaw, match="another region can have the lease"):
        list(map(called_off, range(8)))


def superseded() -> World:
    """A region leads by a person's order; while that counts it hears of a newer epoch, whose region is lost then."""
    cluster = world_of("manual", acknowledge=0)
    plan = [
        SimulatedFault(10.0, "region_loss", "amber", seconds=100.0),
        SimulatedFault(15.0, "failover", "birch", seconds=100.0),
        SimulatedFault(20.0, "partition", "birch", STORE, seconds=12.0),
        SimulatedFault(26.0, "failover", "coral", seconds=3.0),
        SimulatedFault(29.0, "region_loss", "coral", seconds=100.0),
    ]
    cluster.run(plan, until=50.0)
    return cluster


def test_an_order_to_lead_is_for_one_promotion(monkeypatch: Patch) -> None:
    assert superseded().regions["birch"].memory.state is RoleState.DEMOTED
    without(RoleEvent.PROMOTED)(monkeypatch)
    with pytest.raises(BrokenLaw, match="stands a second time"):
        superseded()


def returns_twice() -> World:
    """A region comes back twice in a row; a person gives an order for the first time only."""
    cluster = world_of(acknowledge=0, rejoin="manual")
    plan = [
        SimulatedFault(5.0, "partition", "amber", seconds=8.0),
        SimulatedFault(15.0, "rejoin", "amber", seconds=100.0),
        SimulatedFault(20.0, "partition", "coral", "birch", seconds=10.0),
        SimulatedFault(20.0, "partition", "coral", "amber", seconds=15.0),
        SimulatedFault(24.9, "partition", "amber", seconds=12.0),
        SimulatedFault(25.0, "region_loss", "birch", seconds=30.0),
    ]
    cluster.run(plan, until=50.0)
    return cluster


def test_an_order_to_rejoin_is_for_one_return(monkeypatch: Patch) -> None:
    amber = returns_twice().regions["amber"]
    assert amber.seal is not None
    assert not amber.seal.done
    without(RoleEvent.REWOUND)(monkeypatch)
    with pytest.raises(BrokenLaw, match="rejoins a second time"):
        returns_twice()
