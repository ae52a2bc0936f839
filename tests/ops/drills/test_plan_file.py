"""Plans: the examples are whole, and a wrong one is refused with its line and a cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.ops.drills.plan_file import load_plan, parse_plan
from replicator.ops.drills.rules.plan import KINDS, NEEDS_TARGET, WITHOUT_FAULT, DrillPlan, may_take_over

EXAMPLES = Path(__file__).parents[3] / "config" / "drills"


def parsed(text: str, environment: dict[str, str] | None = None) -> DrillPlan:
    return parse_plan(text, Path("plan.toml"), environment or {})


def test_there_is_an_example_of_each_kind() -> None:
    plans = [load_plan(path) for path in EXAMPLES.glob("*.toml")]
    assert {plan.kind for plan in plans} == set(KINDS)
    assert len(plans) == len(KINDS)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_an_example_is_whole(path: Path) -> None:
    plan = load_plan(path)
    assert path.stem.replace("-", "_") == plan.kind
    assert bool(plan.target) is (plan.kind in NEEDS_TARGET)
    assert (plan.fault is None) is (plan.kind in WITHOUT_FAULT)
    if plan.fault is not None:
        assert plan.fault.inject
        assert plan.fault.undo
    assert plan.targets.rpo_blocks is not None
    assert path.read_text().startswith("# ")


def test_one_command_is_a_list_and_several_are_a_list_of_lists() -> None:
    head = 'kind = "region_loss"\ntarget = "paris"\n[fault]\n'
    one = parsed(head + 'inject = ["kill", "1"]')
    assert one.fault is not None
    assert one.fault.inject == (("kill", "1"),)
    two = parsed(head + 'inject = [["kill", "1"], ["kill", "2"]]\nundo = ["true"]')
    assert two.fault is not None
    assert two.fault.inject == (("kill", "1"), ("kill", "2"))
    assert two.fault.undo == (("true",),)


def test_what_is_expected_goes_by_the_kind_unless_the_plan_says_it() -> None:
    assert parsed('kind = "switchover"\ntarget = "tokyo"').expected == "failover"
    assert parsed('kind = "canary"').expected == "no_failover"
    assert parsed('kind = "disk_full"\ntarget = "tokyo"').expected == "either"
    assert parsed('kind = "disk_full"\ntarget = "tokyo"\nexpect = "failover"').expected == "failover"


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ('kind = "canary"', []),
        ('kind = "switchover"\ntarget = "tokyo"', ["tokyo"]),
        ('kind = "region_loss"\ntarget = "paris"\n[fault]\ninject = ["true"]', ["tokyo", "lima"]),
        ('kind = "database_crash"\ntarget = "paris"\n[canary]\ndsn = { paris = "a", lima = "b" }', ["lima"]),
        ('kind = "region_loss"\ntarget = ["paris", "lima"]\n[steps]\nfailover = "ordered"', ["lima"]),
        ('kind = "disk_full"\ntarget = "tokyo"\nexpect = "no_failover"', []),
    ],
)
def test_canaries_have_to_be_possible_wherever_the_lead_may_go(text: str, regions: list[str]) -> None:
    plan = parsed(text)
    assert may_take_over(plan, ["paris", "tokyo", "lima"], "paris") == regions


def test_a_secret_is_not_shown() -> None:
    plan = parsed('kind = "canary"\n[canary]\ndsn = { paris = { env = "DSN" } }', {"DSN": "host=x password=hidden"})
    assert plan.canary.dsn["paris"].reveal() == "host=x password=hidden"
    assert "hidden" not in repr(plan)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'kind = "canary"\n\n[targts]\nrto = "1s"',
            ["plan.toml, line 3", "targts: this key is not known", "'targets'"],
        ),
        ('kind = "canary"\n[targets]\nrtto = "1s"', ["line 3", "targets.rtto: this key is not known", "'rto'"]),
        ('kind = "canary"\n[targets]\nrto = 1', ["line 3", "a duration above zero is needed"]),
        ('kind = "canary"\n[stop]\nat_risk_blocks = -1', ["line 3", "greater than or equal to 0"]),
        ('kind = "canari"', ["line 1", "kind: input should be 'canary'"]),
        ('target = "tokyo"', ["kind: this is needed and missing"]),
        ('kind = "switchover"', ["target: a switchover is of a region"]),
        ('kind = "switchover"\ntarget = ["a", "b"]', ["line 2", "one target"]),
        ('kind = "canary"\n[fault]\ninject = ["x"]', ["line 2", "a canary breaks nothing"]),
        ('kind = "canary"\none_way = true', ["line 2", "only a partition is one-way"]),
        ('kind = "partition"\ntarget = "a"\nother = "a"', ["line 3", "one region"]),
        ('kind = "canary"\nduration = "7h"', ["line 2", "six hours"]),
        ('kind = "region_loss"\ntarget = "a"\n[steps]\nfailover = "ordered"', ["line 4", "nobody is named"]),
        ('kind = "region_loss"\ntarget = "a"\n[fault]\ninject = "rm -rf x"', ["line 4", "fault.inject"]),
        ('kind = "region_loss"\ntarget = "a"\n[fault]\ninject = []', ["line 4", "fault.inject"]),
        ('kind = "canary"\nkind 3', ["line 2"]),
        (
            'kind = "canary"\n[canary]\ndsn = { a = { env = "NO" } }',
            ["line 3", "the environment variable NO is not set"],
        ),
    ],
)
def test_a_wrong_plan_is_refused_with_line_and_cure(text: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(text)
    assert refused.value.reason == "bad_plan"
    assert refused.value.cure
    for part in told:
        assert part in str(refused.value)


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_plan(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes(b'kind = "canary"\n# \xe9')
    with pytest.raises(ConfigError, match=r"line 2.*UTF-8"):
        load_plan(tmp_path / "latin.toml")
