"""``replicator demo``: three regions on this machine, with traffic, kills, a failover and back, and a verdict."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import example

if TYPE_CHECKING:
    from replicator.ops.demo.report import DemoReport

MOST_SECONDS = 3600


@click.command("demo")
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(1, MOST_SECONDS), help="Of traffic.")
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Leave data, configurations and logs in this new directory."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end; progress goes to standard error.")
@example("replicator demo", "replicator demo --seconds 60 --keep /var/tmp/demo", "replicator demo --json | jq .equal")
def command(seconds: float, keep: Path | None, as_json: bool) -> None:
    """Three regions on this machine, under real traffic; a replica is killed, then the primary: another region leads.

    Customers of three regions top up, transfer and redeem over HTTP, repeat themselves, and read in their region what
    they wrote; they find the primary by themselves. The lost region comes back as a replica, what only it had is
    sealed, and the primary is switched back to it. In the end every row, every cent and every block of all regions is
    compared. Nothing is left behind.

    Exit code 0: all regions are equal. 1: they are not, or the demo did not come to its end. 2: wrong usage. 128 and
    the signal's number: ended by a signal.
    """
    from replicator.ops.demo.run import run

    _escape_what_cannot_be_encoded()
    report = run(keep, seconds, as_json=as_json)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report, keep)
    sys.exit(report.exit_code)


def _escape_what_cannot_be_encoded() -> None:
    """Let a path that the terminal's encoding does not have be printed all the same."""
    import io

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print(report: DemoReport, keep: Path | None) -> None:
    from replicator.ops.demo.show import PlainLog

    lines = PlainLog(sys.stdout)
    for check in report.checks:
        lines.say(f"{'ok  ' if check.passed else 'FAIL'} {check.region}, {check.what}: {check.told}")
    if keep is not None:
        lines.say(f"kept: sqlite3 {keep}/tokyo/data/ledger.sqlite3 'SELECT * FROM wallets LIMIT 5'")
        lines.say(f"      replicator run {keep}/paris/config.toml, replicator run {keep}/tokyo/config.toml")
    lines.say(report.sentence())
