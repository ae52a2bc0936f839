"""The detector, the manual lease, the candidates, and what would be lost."""

from __future__ import annotations

import dataclasses

import pytest

from replicator.cluster.decisions.candidate import candidates, my_turn
from replicator.cluster.decisions.detector import Level, heard_seconds, signals
from replicator.cluster.decisions.loss import loss, refused
from replicator.cluster.decisions.manual_lease import view_of
from replicator.cluster.decisions.model import FailoverRules, HeardReport, MemberReport, Observation, Order
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import Holder, LeaseView

RULES = FailoverRules("tokyo", ("paris", "tokyo", "lima"), suspect_seconds=2.0, report_seconds=1.5, stand_seconds=1.0)
FREE, HELD = LeaseView(None, 3), LeaseView(Holder("paris", 3, "t"), 3)
ME = MemberReport("tokyo", RoleState.FOLLOWING, head_epoch=3, sequence=10, heard_seconds=9.0)


def _seen(lease: LeaseView | None, me: MemberReport = ME, *peers: MemberReport, at: float = 100.0) -> Observation:
    return Observation(now=100.0, since=90.0, me=me, lease=lease, peers={p.region: HeardReport(p, at) for p in peers})


def _lima(**fields: object) -> MemberReport:
    return dataclasses.replace(MemberReport("lima", RoleState.FOLLOWING, head_epoch=3, sequence=10), **fields)  # type: ignore[arg-type]


HEARS = dataclasses.replace(ME, heard_seconds=0.1)


@pytest.mark.parametrize(
    ("lease", "me", "lima", "level"),
    [
        (HELD, HEARS, _lima(), Level.GREEN),
        (HELD, ME, _lima(heard_seconds=0.5), Level.GREEN),
        (HELD, ME, _lima(), Level.YELLOW),
        (FREE, HEARS, _lima(), Level.YELLOW),
        (FREE, ME, _lima(heard_seconds=0.5), Level.YELLOW),
        (None, ME, _lima(), Level.YELLOW),
        (FREE, ME, _lima(heard_seconds=2.5), Level.RED),
        (FREE, ME, _lima(), Level.RED),
    ],
)
def test_red_takes_both_signals(lease: LeaseView | None, me: MemberReport, lima: MemberReport, level: Level) -> None:
    found = signals(_seen(lease, me, lima), RULES)
    assert found.level is level
    assert bool(found.why) == (level is not Level.GREEN)


def test_a_peer_that_has_fallen_silent_has_no_say() -> None:
    assert signals(_seen(FREE, ME, _lima(heard_seconds=0.1), at=98.0), RULES).level is Level.RED


def test_a_region_that_writes_is_not_lost() -> None:
    paris = MemberReport("paris", RoleState.PRIMARY, open=True)
    assert signals(_seen(FREE, ME, paris), RULES).level is Level.YELLOW


@pytest.mark.parametrize(
    ("primary", "heard"),
    [
        (MemberReport("paris", RoleState.PRIMARY, open=True, able=False), 0.3),  # its lease lasts still
        (MemberReport("paris", RoleState.PRIMARY), 0.3),  # it will open in a moment
        (MemberReport("paris", RoleState.DEMOTING), 0.3),
        (MemberReport("paris", RoleState.PRIMARY, able=False), None),  # its lease is over, and its feed goes on
        (MemberReport("paris", RoleState.DEMOTING, able=False), None),
        (MemberReport("paris", RoleState.DEMOTED), None),
    ],
)
def test_a_primary_that_cannot_write_by_its_own_word_is_not_heard(primary: MemberReport, heard: float | None) -> None:
    assert heard_seconds(0.1, HeardReport(primary, 99.7), 100.0) == pytest.approx(heard)


def test_a_store_that_has_just_come_back_says_nothing_yet() -> None:
    """Whoever led finds it again at the same moment, and leads on."""
    seen = dataclasses.replace(_seen(FREE, ME, _lima()), lease_seconds=1.0)
    assert signals(seen, RULES).level is Level.YELLOW
    assert signals(dataclasses.replace(seen, lease_seconds=1.6), RULES).level is Level.RED


def test_who_cannot_stand_keeps_nobody_waiting_and_who_led_last_comes_first() -> None:
    unable, led = _lima(able=False), _lima(led=3)
    assert [report.region for report in candidates(_seen(FREE, ME, unable), RULES)] == ["tokyo"]
    zurich = dataclasses.replace(led, region="zurich")
    rules = dataclasses.replace(RULES, regions=(*RULES.regions, "zurich"))
    assert [report.region for report in candidates(_seen(FREE, ME, zurich), rules)] == ["zurich", "tokyo"]


def test_the_candidate_has_the_most_and_a_newer_epoch_counts_more_than_length() -> None:
    long = MemberReport("paris", RoleState.DEMOTED, head_epoch=2, sequence=99)
    names = [report.region for report in candidates(_seen(FREE, ME, _lima(sequence=11), long), RULES)]
    assert names == ["lima", "tokyo", "paris"]


def test_ties_go_by_priority_and_then_by_name() -> None:
    def order(*peers: MemberReport) -> list[str]:
        return [report.region for report in candidates(_seen(FREE, ME, *peers), RULES)]

    assert order(_lima()) == ["lima", "tokyo"]
    first = candidates(_seen(FREE, dataclasses.replace(ME, priority=1), _lima()), RULES)[0]
    assert first.region == "tokyo"


def test_who_is_near_the_region_that_led_comes_before_who_is_far() -> None:
    """Measured, in steps of twice as far; two that are about as near go by name, as everybody sees it alike."""

    def first(mine_ms: int, limas_ms: int) -> str:
        me = dataclasses.replace(ME, distance_ms=mine_ms)
        return candidates(_seen(FREE, me, _lima(distance_ms=limas_ms)), RULES)[0].region

    assert first(2, 300) == "tokyo"
    assert first(300, 2) == "lima"
    assert first(45, 70) == first(70, 45) == "lima"
    assert first(1, 19) == "lima"


def test_who_cannot_be_promoted_is_none_and_others_wait_their_turn() -> None:
    blocked = dataclasses.replace(ME, blocked="2 keys differ")
    assert not my_turn(_seen(FREE, blocked, _lima()), RULES, 60.0)
    behind = _seen(FREE, ME, _lima(sequence=11))
    assert not my_turn(behind, RULES, 0.9)
    assert my_turn(behind, RULES, 1.0)
    assert my_turn(_seen(FREE, ME, _lima(sequence=11, blocked="halted")), RULES, 0.0)


def test_a_manual_lease_is_what_the_regions_say() -> None:
    own = LeaseView(None, 0)
    paris = MemberReport("paris", RoleState.PRIMARY, epoch=3, promised=3, led=3)
    seen = view_of(own, [paris], None)
    assert seen == LeaseView(Holder("paris", 3, "paris:3"), 3)
    assert view_of(own, [], seen).holder == seen.holder, "a silent primary is not called gone"
    demoted = dataclasses.replace(paris, state=RoleState.DEMOTED)
    assert view_of(own, [demoted], seen).holder is None
    tokyo = MemberReport("tokyo", RoleState.PRIMARY, epoch=4, promised=4, led=4)
    newer = view_of(own, [paris, tokyo], seen)
    assert newer.holder is not None
    assert newer.holder.region == "tokyo"


def test_what_any_region_has_is_not_lost() -> None:
    heard = dataclasses.replace(ME, heard_head=14)
    assert loss(_seen(FREE, heard, _lima(sequence=12)), RULES).blocks == 2
    assert loss(_seen(FREE, heard, _lima(sequence=14)), RULES).blocks == 0


def test_the_budget_is_of_blocks_and_of_amounts() -> None:
    risk = dataclasses.replace(ME, heard_head=12, at_risk={"public.wallets EUR": 50.0})
    seen = _seen(FREE, risk)
    assert "2 blocks" in refused(seen, RULES, None)
    assert refused(seen, dataclasses.replace(RULES, max_lost_blocks=2), None) == ""
    limited = dataclasses.replace(RULES, max_lost_blocks=2, max_lost_amounts={"public.wallets": 49.0})
    assert "EUR" in refused(seen, limited, None)
    assert refused(seen, dataclasses.replace(limited, max_lost_amounts={"public.wallets": 50.0}), None) == ""
    unknown = _seen(FREE, dataclasses.replace(risk, at_risk={}, at_risk_unknown=1))
    assert "not known" in refused(unknown, limited, None)
    allowed = Order("failover", 60.0, allow_data_loss=True, reason="paris burned down")
    assert refused(seen, RULES, allowed) == ""
