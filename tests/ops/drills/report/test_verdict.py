"""The verdict over what was measured."""

from __future__ import annotations

import pytest

from replicator.ops.drills.report.verdict import equal_regions, expected_change, outcome_of, target_reports
from replicator.ops.drills.rules.plan import DrillTargets, Expect

TARGETS = DrillTargets.model_validate({"rpo_blocks": 0, "rto": "2s", "max_blocked": "1s", "amounts": {"EUR": 1.0}})


def test_each_target_is_judged_by_what_was_measured() -> None:
    met = {one.name: one.met for one in target_reports(TARGETS, 0, {"EUR": 1.0}, 2.0, 1.5)}
    assert met == {"rpo_blocks": True, "rpo EUR": True, "rto": True, "max_blocked": False}


def test_what_was_not_measured_is_not_met() -> None:
    assert not any(one.met for one in target_reports(TARGETS, None, None, None, None))
    assert target_reports(DrillTargets(), None, None, None, None) == []


def test_regions_have_to_be_equal_and_compared() -> None:
    assert equal_regions(["reference", "equal"]).met
    assert not equal_regions(["reference", "divergent"]).met
    assert not equal_regions([]).met
    assert equal_regions(["reference", "could not be compared: x", "divergent"]).measured == 2


@pytest.mark.parametrize(
    ("expected", "changed", "met"), [("failover", False, False), ("no_failover", True, False), ("failover", True, True)]
)
def test_a_change_of_the_primary_is_as_expected_or_not(expected: Expect, changed: bool, met: bool) -> None:
    found = expected_change(expected, changed)
    assert found is not None
    assert found.met is met
    assert expected_change("either", changed) is None


def test_the_outcome() -> None:
    good, bad = equal_regions(["equal"]), equal_regions(["divergent"])
    assert outcome_of([good], "", "") == "passed"
    assert outcome_of([good, bad], "", "") == "missed"
    assert outcome_of([good], "at risk", "") == "stopped"
    assert outcome_of([good], "at risk", "not undone") == "failed"
