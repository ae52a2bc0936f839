"""Plans in the simulation: the operator's own rules, reproducible seeds, and what misses a target is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from replicator.config import Config, load, parse
from replicator.errors import ConfigError
from replicator.ops.cli import main
from replicator.ops.drills.plan_file import load_plan, parse_plan
from replicator.ops.drills.report.form import DrillReport
from replicator.ops.drills.rules.plan import LIVE_ONLY, DrillPlan
from replicator.ops.drills.simulation import SimulationSetting, live, live_all, schedule_of, setting_of
from replicator.ops.drills.simulation_report import targets_of

EXAMPLES = Path(__file__).parents[3] / "config" / "drills"
CONFIG = """
[region]
name = "paris"
role = "primary"
data_dir = "data"
[source]
kind = "embedded"
[cluster]
regions = { paris = "http://p:1", tokyo = "http://t:1", lima = "http://l:1" }
[lease]
kind = "static"
path = "lease.json"
ttl = "3s"
[failover]
mode = "automatic"
acknowledge = 1
"""
LOSS = 'kind = "region_loss"\ntarget = "paris"\nduration = "8s"\n[targets]\nrpo_blocks = 0\nrto = "20s"\n'


def config(text: str = CONFIG) -> Config:
    return parse(text, "paris.toml", {})


def plan(text: str = LOSS) -> DrillPlan:
    return parse_plan(text, Path("plan.toml"), {})


def setting(text: str = LOSS, configuration: str = CONFIG) -> SimulationSetting:
    return setting_of(config(configuration), plan(text))


def test_the_world_has_the_operators_rules() -> None:
    found = setting()
    assert set(found.rules) == {"paris", "tokyo", "lima"}
    assert {name: rules.me for name, rules in found.rules.items()} == {name: name for name in found.rules}
    assert {rules.mode for rules in found.rules.values()} == {"automatic"}
    assert {rules.acknowledge for rules in found.rules.values()} == {1}
    assert (found.ttl_seconds, found.first) == (3.0, "paris")
    assert setting('kind = "switchover"\ntarget = "paris"').first == "tokyo"


def test_a_seed_is_one_history() -> None:
    assert live(setting(), 7) == live(setting(), 7)
    assert live(setting(), 7) != live(setting(), 8)


def test_the_same_seeds_come_out_the_same_in_several_processes() -> None:
    one, _ = live_all(setting(), range(40, 44), workers=2)
    assert [lived.seed for lived in one] == [40, 41, 42, 43]
    assert one == [live(setting(), seed) for seed in range(40, 44)]


def test_the_loss_of_a_region_is_survived_without_loss_when_another_acknowledges() -> None:
    for seed in range(5):
        lived = live(setting(), seed)
        assert lived.changed
        assert lived.converged
        assert lived.acknowledged_lost == 0
        assert lived.rto_seconds is not None
        assert 1 < lived.rto_seconds < 20
        assert lived.blocked_seconds >= lived.rto_seconds - 1
        assert not lived.broken


def test_who_promotes_by_hand_misses_a_failover_unless_the_plan_orders_it() -> None:
    by_hand = CONFIG.replace('mode = "automatic"', 'mode = "manual"')
    assert not live(setting(configuration=by_hand), 1).changed
    ordered = LOSS.replace('target = "paris"', 'target = ["paris", "tokyo"]') + '[steps]\nfailover = "ordered"\n'
    lived = live(setting(ordered, by_hand), 1)
    assert lived.changed


@pytest.mark.parametrize("configuration", ["cluster-embedded", "cluster-postgres"])
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_plan_meets_its_targets_with_a_shipped_configuration(path: Path, configuration: str) -> None:
    example, shipped = load_plan(path), load(EXAMPLES.parent / f"{configuration}.toml")
    if example.kind in LIVE_ONLY:
        with pytest.raises(ConfigError, match="nothing to simulate"):
            setting_of(shipped, example)
        return
    setting = setting_of(shipped, example)
    for seed in range(1, 13 if example.kind == "switchover" else 4):
        history = live(setting, seed)
        missed = [target for target in targets_of(example, history) if not target.met]
        assert not missed, f"seed {seed}: {missed} {history.broken}"


def test_writers_who_were_never_interrupted_have_not_waited_for_anything() -> None:
    """An ordinary pause between two writes is no outage, however long after the event it came."""
    skew = 'kind = "clock_skew"\ntarget = "paris"\nexpect = "no_failover"\nduration = "10s"\n'
    assert [live(setting(skew), seed).rto_seconds for seed in range(3)] == [0.0, 0.0, 0.0]


def test_the_seed_moves_the_event_within_the_leases_term() -> None:
    times = [schedule_of(setting(), seed)[0] for seed in range(200)]
    assert max(times) - min(times) > 2.5
    assert len(set(times)) == 200


def test_a_configuration_without_a_cluster_is_refused() -> None:
    alone = CONFIG.replace(
        '[cluster]\nregions = { paris = "http://p:1", tokyo = "http://t:1", lima = "http://l:1" }\n', ""
    )
    alone = alone[: alone.index("[lease]")]
    with pytest.raises(ConfigError, match="names no other region"):
        setting_of(config(alone), plan())
    with pytest.raises(ConfigError, match="there is no region rome"):
        setting(LOSS.replace("paris", "rome"))


def drill(tmp_path: Path, text: str, *arguments: str) -> tuple[int, str]:
    (tmp_path / "paris.toml").write_text(CONFIG)
    (tmp_path / "plan.toml").write_text(text)
    files = [str(tmp_path / "paris.toml"), "--plan", str(tmp_path / "plan.toml"), "--report", str(tmp_path / "report")]
    result = CliRunner().invoke(main, ["drill", "--local", *files, *arguments])
    return result.exit_code, result.output


def test_a_seed_that_misses_a_target_is_named_and_can_be_replayed_alone(tmp_path: Path) -> None:
    strict = LOSS.replace('rto = "20s"', 'rto = "3s"')
    code, said = drill(tmp_path, strict, "--seed", "100", "--seeds", "8")
    report = DrillReport.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert report.simulation is not None
    assert report.simulation.seeds == 8
    assert report.simulation.rto_seconds is not None
    assert report.simulation.rto_seconds.count == 8
    assert code == 1, said
    assert "missed a target" in said
    worst = report.simulation.rto_seconds.max_seed
    assert worst in report.simulation.missed
    code, said = drill(tmp_path, strict, "--seed", f"{worst}")
    alone = DrillReport.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert code == 1, said
    assert alone.rto_seconds == report.simulation.rto_seconds.max
    (event, *_) = alone.changes
    steps = [step.step for step in event.steps]
    assert steps[0] == "fault"
    assert [step for step in steps if step != "fence"][1:5] == ["detection", "decision", "drain", "promote"]
    assert event.new in ("tokyo", "lima")
    html = (tmp_path / "report" / "report.html").read_text()
    assert "<svg" in html
    assert f"<code>{worst}</code>" in html


def test_the_schema_is_printed(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["drill", "--schema"])
    assert result.exit_code == 0
    assert json.loads(result.output)["properties"]["format"]["const"] == 1


def test_usage(tmp_path: Path) -> None:
    (tmp_path / "paris.toml").write_text(CONFIG)
    for arguments in ([], ["--local"], [str(tmp_path / "paris.toml")]):
        result = CliRunner().invoke(main, ["drill", *arguments])
        assert result.exit_code == 2, result.output
