"""A drill begins with all well, stops itself in time, and knows when all is well again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from replicator.errors import ConfigError, Unavailable
from replicator.ops.drills.plan_file import parse_plan
from replicator.ops.drills.rules.observations import RegionObservation
from replicator.ops.drills.rules.plan import DrillPlan, StopRule
from replicator.ops.drills.rules.safety import check_fit, not_well, stop_reason

NAMES = ("paris", "tokyo")


def plan(text: str = 'kind = "canary"') -> DrillPlan:
    return parse_plan(text, Path("plan.toml"), {})


def seen(*observations: RegionObservation) -> dict[str, RegionObservation]:
    return {observation.region: observation for observation in observations}


PARIS = RegionObservation("paris", 0, 0, "primary", leads=True, epoch=1, sequence=50)
TOKYO = RegionObservation("tokyo", 0, 0, "following", sequence=48)


def test_all_is_well() -> None:
    assert check_fit(plan(), NAMES, seen(PARIS, TOKYO)) == "paris"
    assert not_well(seen(PARIS, TOKYO), 2) == ""


@pytest.mark.parametrize(
    ("text", "observations", "told"),
    [
        ('kind = "canary"', [PARIS], "tokyo does not answer"),
        ('kind = "canary"', [PARIS, RegionObservation("tokyo", 0, 0)], "tokyo does not answer"),
        ('kind = "canary"', [TOKYO, RegionObservation("paris", 0, 0, "demoted")], "nobody takes writes"),
        (
            'kind = "canary"',
            [PARIS, RegionObservation("tokyo", 0, 0, "primary", leads=True)],
            "paris and tokyo take writes",
        ),
        ('kind = "canary"\n[stop]\nat_risk_blocks = 1', [PARIS, TOKYO], "2 blocks are at risk"),
        ('kind = "switchover"\ntarget = "paris"', [PARIS, TOKYO], "paris leads already"),
        ('kind = "switchover"\ntarget = "lima"', [PARIS, TOKYO], "there is no region lima"),
        ('kind = "slow_link"\ntarget = "paris"\nother = "lima"', [PARIS, TOKYO], "there is no region lima"),
    ],
)
def test_what_is_not_fit_is_refused(text: str, observations: list[RegionObservation], told: str) -> None:
    with pytest.raises((ConfigError, Unavailable)) as refused:
        check_fit(plan(text), NAMES, seen(*observations))
    assert told in refused.value.message
    assert refused.value.cure


def test_the_stop_rule() -> None:
    paris = dataclasses.replace(PARIS, sequence=120, at_risk={"EUR": 9.0})
    latest = seen(paris, dataclasses.replace(TOKYO, sequence=100, lag_seconds=4.0))
    assert stop_reason(StopRule(), latest, 5.0) == ""
    assert "20 blocks are at risk, 19 may be" in stop_reason(StopRule(at_risk_blocks=19), latest, 0)
    assert stop_reason(StopRule(at_risk_blocks=20), latest, 0) == ""
    assert "9.00 EUR" in stop_reason(StopRule(at_risk_amounts={"EUR": 8.0}), latest, 0)
    assert stop_reason(StopRule(at_risk_amounts={"USD": 0.0}), latest, 0) == ""
    assert "tokyo is 4.0 s behind" in stop_reason(StopRule.model_validate({"lag": "3s"}), latest, 0)
    assert "no write" in stop_reason(StopRule(), latest, 121.0)


def test_what_is_not_well_again_is_named() -> None:
    assert not_well(seen(PARIS, TOKYO), 1) == "tokyo is at block 48, paris at 50"
    assert not_well(seen(TOKYO), 1) == "0 regions take writes"
    assert not_well(seen(PARIS, RegionObservation("tokyo", 0, 0, "rejoining", sequence=50)), 1) == "tokyo is rejoining"
    assert not_well(seen(PARIS, RegionObservation("tokyo", 0, 0)), 1) == "tokyo is away"
