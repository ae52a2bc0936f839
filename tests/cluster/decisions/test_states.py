"""The table of states: what it allows, and what a reader may rely on."""

from __future__ import annotations

import pytest

from replicator.cluster.decisions.states import LEADING, TABLE, IllegalEvent, RoleEvent, RoleState, moved

EVERY = [(state, event) for state in RoleState for event in RoleEvent]


@pytest.mark.parametrize(("state", "event"), [pair for pair in EVERY if pair not in TABLE])
def test_an_event_that_a_state_does_not_know_raises(state: RoleState, event: RoleEvent) -> None:
    with pytest.raises(IllegalEvent, match=state.value):
        moved(state, event)


def test_every_row_is_a_way() -> None:
    for (state, event), after in TABLE.items():
        assert moved(state, event) is after


def test_nobody_becomes_primary_but_through_fencing_draining_and_promoting() -> None:
    before = {after: {state for (state, _), end in TABLE.items() if end is after} for after in RoleState}
    assert before[RoleState.PRIMARY] == {RoleState.PROMOTING, RoleState.DEMOTING}
    assert before[RoleState.PROMOTING] == {RoleState.DRAINING}
    assert before[RoleState.DRAINING] == {RoleState.FENCING}
    assert before[RoleState.FENCING] == {RoleState.CLAIMING}
    assert before[RoleState.DEMOTING] == {RoleState.PRIMARY}


def test_whoever_holds_the_lease_can_lose_it_from_every_state() -> None:
    ends = {RoleEvent.LOST, RoleEvent.EXPIRED, RoleEvent.SUPERSEDED}
    for state in LEADING:
        ways = {event for (before, event), after in TABLE.items() if before is state and after is RoleState.DEMOTED}
        assert ways & ends, state


def test_every_state_is_reached_and_left() -> None:
    reached = {RoleState.FOLLOWING, RoleState.DEMOTED}  # where regions start
    for _ in RoleState:
        reached |= {after for (state, _), after in TABLE.items() if state in reached}
    assert reached == set(RoleState)
    assert {state for state, _ in TABLE} == set(RoleState)
