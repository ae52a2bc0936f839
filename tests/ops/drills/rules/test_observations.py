"""What is seen is put on one clock, and what is at risk is counted."""

from __future__ import annotations

import dataclasses

from replicator.ops.drills.rules.observations import (
    HistoryEvent,
    RegionObservation,
    RegionObservations,
    at_risk,
    of_failover,
    of_status,
)

WALL_US = 1_790_000_000_000_000


def observation(region: str, at: float, state: str = "following", **fields: object) -> RegionObservation:
    return dataclasses.replace(RegionObservation(region, at - 0.02, at, state), **fields)  # type: ignore[arg-type]


def past(seconds: float, state: str) -> HistoryEvent:
    return HistoryEvent(WALL_US + round(seconds * 1e6), state, "event", 2, "because")


def test_what_a_region_tells_of_its_past_is_placed_by_its_clock_within_the_two_polls() -> None:
    observations = RegionObservations(WALL_US)
    old = past(-100, "following")
    observations.add(observation("tokyo", 1.0, history=[old]))
    observations.add(observation("tokyo", 2.0, "draining", history=[old, past(1.5, "claiming"), past(1.7, "draining")]))
    assert [(entry.at, entry.state) for entry in observations.entries] == [
        (1.0, "following"),
        (1.5, "claiming"),
        (1.7, "draining"),
    ]
    late = [old, past(1.5, "claiming"), past(1.7, "draining"), past(90.0, "promoting"), past(-90.0, "primary")]
    observations.add(observation("tokyo", 3.0, "primary", history=late))
    assert [(entry.at, entry.state) for entry in observations.entries[3:]] == [(3.0, "promoting"), (1.98, "primary")]


def test_a_region_without_a_past_is_followed_by_the_polls() -> None:
    observations = RegionObservations(WALL_US)
    for at, state in ((1.0, "following"), (2.0, "following"), (3.0, "away"), (4.0, "away"), (5.0, "following")):
        observations.add(observation("tokyo", at, state))
    # It is away since the first poll that it did not answer was sent.
    assert [(entry.at, entry.state) for entry in observations.entries] == [
        (1.0, "following"),
        (2.98, "away"),
        (5.0, "following"),
    ]


def test_who_leads_is_the_newest_of_those_that_say_so() -> None:
    observations = RegionObservations(WALL_US)
    assert observations.leader is None
    observations.add(observation("paris", 1.0, "primary", leads=True, epoch=1))
    observations.add(observation("tokyo", 1.1, "primary", leads=True, epoch=2))
    assert observations.leader == "tokyo"


def test_at_risk_is_what_no_other_region_has_also_when_the_primary_is_gone() -> None:
    primary = observation("paris", 1, "primary", leads=True, sequence=120, at_risk={"EUR": 9.0})
    tokyo, lima = observation("tokyo", 1, sequence=100, heard_head=110), observation("lima", 1, sequence=90)
    assert at_risk({"paris": primary, "tokyo": tokyo, "lima": lima}) == (20, {"EUR": 9.0})
    assert at_risk({"paris": observation("paris", 2, "away"), "tokyo": tokyo, "lima": lima}) == (10, {})
    assert at_risk({"paris": primary}) == (0, {})


def test_a_failover_report_and_a_status_are_read() -> None:
    report = {
        **{"region": "tokyo", "state": "primary", "epoch": 3, "sequence": 9, "applied": 9, "verified": 8},
        **{"open": True, "blocked": "", "heard_head": 7, "at_risk": {"EUR": 1}},
    }
    history = [{"at_us": 5, "event": "promoted", "state": "primary", "epoch": 3, "why": "in epoch 3"}]
    seen = of_failover("tokyo", 1.0, {"report": report, "level": "green", "history": history})
    assert (seen.leads, seen.epoch, seen.sequence, seen.heard_head, seen.at_risk) == (True, 3, 9, 7, {"EUR": 1.0})
    assert seen.history == [HistoryEvent(5, "primary", "promoted", 3, "in epoch 3")]
    assert not of_failover("tokyo", 1.0, {"report": {**report, "open": False}}).leads
    status = {
        "role": "replica",
        "blocked": {"message": "behind"},
        "strands": [
            {
                **{"epoch": 1, "lag": {"seconds": 2.5}, "head": None, "verify": {"verified": 4}},
                "marks": {"received": 9, "settled": 8, "applied": 7, "verified": None},
            }
        ],
    }
    seen = of_status("tokyo", 1.0, status)
    assert (seen.state, seen.leads, seen.sequence, seen.verified) == ("following", False, 8, 4)
    assert (seen.lag_seconds, seen.blocked) == (2.5, "behind")
