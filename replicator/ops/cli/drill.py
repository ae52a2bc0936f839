"""``replicator drill``: rehearse a failure, measure it, and come back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from replicator.ops.cli import example
from replicator.ops.terminal import log_to_stderr, printable


@click.command("drill")
@click.argument("configs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="What to do; config/drills has examples.")
@click.option("--region", "addresses", multiple=True, help="A region's address, or NAME=URL; instead of CONFIG.")
@click.option("--ca", type=click.Path(path_type=Path), help="Certificates to trust for --region, PEM.")
@click.option("--local", is_flag=True, help="Simulate it, with the rules of CONFIG, on a virtual clock.")
@click.option(
    "--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="The (first) seed of --local."
)
@click.option("--seeds", type=click.IntRange(1, 10_000_000), default=1, show_default=True, help="How many seeds.")
@click.option("--report", "report_dir", type=click.Path(path_type=Path), help="Write report.json and report.html here.")
@click.option("--state", type=click.Path(path_type=Path), help="Where it notes what it has to undo.")
@click.option("--check", is_flag=True, help="Say what would be done, and whether the regions are fit; do nothing.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of report.json.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@example(
    "replicator drill --plan config/drills/switchover.toml paris.toml --report drills/today",
    "replicator drill --plan config/drills/canary.toml --region https://paris.example:7400 --region https://lima.example:7400",
    "replicator drill --plan config/drills/rehearsal.toml tokyo.toml",
    "replicator drill --local paris.toml --plan config/drills/region-loss.toml --seed 1 --seeds 5000",
)
def command(
    configs: tuple[Path, ...],
    plan_path: Path | None,
    addresses: tuple[str, ...],
    ca: Path | None,
    local: bool,
    seed: int,
    seeds: int,
    report_dir: Path | None,
    state: Path | None,
    check: bool,
    schema: bool,
    as_json: bool,
) -> None:
    """Rehearses a failure or a change of the primary, measures RPO and RTO, and comes back.

    On a running deployment canaries are written at the primary and read in every region while the plan's event happens:
    nothing (canary), a planned switchover and back, the promotion of a fork that is thrown away (rehearsal), or a
    failure that the plan's own commands bring about and undo. The regions are those of CONFIG's [cluster]. It begins
    only if all is well, stops itself when more is at risk than the plan allows, and always undoes what it did: also
    when it is told to stop, and at the next start of any drill if it was killed. --check changes nothing.

    With --local the plan happens in a simulation, thousands of times; a seed that missed a target can be replayed
    alone. The result is told to each region: replicator_drill_age_seconds, replicator_drill_passed, status.

    Exit code 0: every target met. 1: a target missed, or the drill could not begin. 2: wrong usage, configuration or
    plan. 3: begun, and stopped by itself, by a signal, or failed on the way.
    """
    from replicator.ops.drills import run
    from replicator.ops.drills.report.form import exit_code
    from replicator.ops.drills.report.text import lines

    if schema:
        click.echo(json.dumps(run.schema(), indent=2))
        return
    log_to_stderr()
    if local:
        report = run.simulate(run.SimulatedDrillOptions(configs, plan_path, seed, seeds))
    else:
        if plan_path is None:
            raise click.UsageError("give a plan: --plan FILE; config/drills has one of each kind")
        live = run.LiveDrillOptions(configs, addresses, ca, plan_path, state)
        if check:
            for line in run.check(live):
                click.echo(printable(line))
            return
        report = run.carry_out(live)
    if report_dir is not None:
        run.write(report, report_dir)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        for line in lines(report):
            click.echo(printable(line))
        if report_dir is not None:
            click.echo(printable(f"report: {report_dir / 'report.html'}"))
    sys.exit(exit_code(report.outcome))
