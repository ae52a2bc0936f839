"""What speaks against an order is told before it is taken."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from replicator.cluster.decisions.model import DurableState, FailoverRules, HeardReport, MemberReport, Order
from replicator.cluster.decisions.orders import check_order
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import Holder, LeaseView
from replicator.errors import Rejected

RULES = FailoverRules("tokyo", ("paris", "tokyo"))
FREE = LeaseView(None, 3)
HELD = LeaseView(Holder("paris", 3, "t"), 3)
FOLLOWING = DurableState(RoleState.FOLLOWING, "replica")
ME = MemberReport("tokyo", RoleState.FOLLOWING)
FAILOVER = Order("failover", 60.0)
SWITCHOVER = Order("switchover", 60.0, target="paris")
READY = MemberReport("paris", RoleState.FOLLOWING, sequence=9, applied=9, verified=7)
HEARD = HeardReport(READY, 10.0)


def _check(
    order: Order,
    memory: DurableState = FOLLOWING,
    me: MemberReport = ME,
    lease: LeaseView | None = FREE,
    rules: FailoverRules = RULES,
    present: Order | None = None,
    target: HeardReport | None = HEARD,
) -> str:
    """The reason of the refusal; empty if the order is taken."""
    try:
        check_order(order, memory, me, lease, rules, present, 10.0, target)
    except Rejected as refusal:
        return refusal.reason if refusal.status == 409 and refusal.cure else "without a cure"
    return ""


def _in(state: RoleState) -> DurableState:
    return dataclasses.replace(FOLLOWING, state=state)


def test_a_failover_needs_a_free_lease() -> None:
    assert _check(FAILOVER) == ""
    assert _check(FAILOVER, lease=HELD) == "held"
    assert _check(FAILOVER, lease=None) == "no_lease_store"


def test_where_no_store_excludes_others_a_person_says_that_the_primary_is_fenced() -> None:
    manual = dataclasses.replace(RULES, exclusive=False)
    assert _check(FAILOVER, lease=HELD, rules=manual) == "held"
    assert _check(dataclasses.replace(FAILOVER, primary_is_fenced=True), lease=HELD, rules=manual) == ""


def test_a_loss_is_decided_for_a_reason() -> None:
    loss = dataclasses.replace(FAILOVER, allow_data_loss=True)
    assert _check(loss) == "no_reason"
    assert _check(dataclasses.replace(loss, reason=" ")) == "no_reason"
    assert _check(dataclasses.replace(loss, reason="paris burned down")) == ""


def test_a_region_that_cannot_be_promoted_says_why() -> None:
    assert _check(FAILOVER, me=dataclasses.replace(ME, blocked="2 keys differ")) == "not_ready"


@pytest.mark.parametrize(
    "state", sorted(set(RoleState) - {RoleState.FOLLOWING, RoleState.SUSPECTING, RoleState.DEMOTED})
)
def test_only_a_region_that_follows_is_promoted(state: RoleState) -> None:
    assert _check(FAILOVER, _in(state)) == "not_now"


@pytest.mark.parametrize("state", sorted(set(RoleState) - {RoleState.PRIMARY}))
def test_only_the_primary_hands_over(state: RoleState) -> None:
    assert _check(SWITCHOVER, _in(state)) == "not_primary"


@pytest.mark.parametrize("target", ["", "tokyo", "atlantis"])
def test_a_switchover_names_another_region(target: str) -> None:
    assert _check(dataclasses.replace(SWITCHOVER, target=target), _in(RoleState.PRIMARY)) == "bad_target"
    assert _check(SWITCHOVER, _in(RoleState.PRIMARY)) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"state": RoleState.PAUSED, "blocked": "paused by an operator: replicator resume"},
        {"state": RoleState.HALTED, "blocked": "it is halted"},
        {"blocked": "2 keys differ from the primary's: replicator repair"},
        {"able": False},
    ],
)
def test_a_switchover_to_a_region_that_cannot_lead_is_refused_before_anything_is_closed(change: dict[str, Any]) -> None:
    target = HeardReport(dataclasses.replace(READY, **change), 10.0)
    assert _check(SWITCHOVER, _in(RoleState.PRIMARY), target=target) == "target_not_ready"
    with pytest.raises(Rejected, match=change.get("blocked", "cannot be promoted")):
        check_order(SWITCHOVER, _in(RoleState.PRIMARY), ME, HELD, RULES, None, 10.0, target)


def test_a_silent_target_is_waited_for() -> None:
    blocked = dataclasses.replace(READY, blocked="it is halted")
    for target in (None, HeardReport(blocked, 6.9)):
        assert _check(SWITCHOVER, _in(RoleState.PRIMARY), target=target) == ""


def test_one_order_at_a_time() -> None:
    assert _check(FAILOVER, present=SWITCHOVER) == "busy"
    assert _check(FAILOVER, present=dataclasses.replace(SWITCHOVER, until=5.0)) == "", "that one is over"
    assert _check(FAILOVER, present=FAILOVER) == "", "it may be given again"


def test_only_who_waits_for_a_person_is_let_rejoin() -> None:
    assert _check(Order("rejoin", 60.0)) == "not_now"
    assert _check(Order("rejoin", 60.0), _in(RoleState.REJOINING)) == ""
    assert _check(Order("rejoin", 60.0), _in(RoleState.HALTED)) == ""
