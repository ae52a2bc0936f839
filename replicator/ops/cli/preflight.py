"""``replicator preflight``: is everything there that ``run`` will need?"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import FAILED, example
from replicator.ops.terminal import printable

if TYPE_CHECKING:
    from replicator.config.finding import Finding

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("preflight")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@example("replicator preflight region.toml", "replicator preflight region.toml --json | jq '.findings[].what'")
def command(config: Path, as_json: bool) -> None:
    """Checks everything that run will need with CONFIG, changes nothing, and names each problem with its cure.

    Looks at the machine, the data directory, the address, TLS, the databases, and the primary's feed. Exit code 0:
    nothing fails, though there may be warnings. 1: something fails. 2: wrong usage or configuration.
    """
    from replicator.config import load
    from replicator.ops.preflight.checks import check_region

    findings = check_region(load(config))
    ready = all(finding.level != "fail" for finding in findings)
    if as_json:
        content = {"ready": ready, "findings": [dataclasses.asdict(finding) for finding in findings]}
        click.echo(json.dumps(content, indent=2))
    else:
        _print(findings)
    sys.exit(0 if ready else FAILED)


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        level = click.style(f"{finding.level:4}", fg=_COLOURS[finding.level])
        click.echo(f"{level}  {_one_line(finding.what)}")
        if finding.cure:
            click.echo(f"      cure: {_one_line(finding.cure)}")
    counts = {level: sum(finding.level == level for finding in findings) for level in _COLOURS}
    click.echo(f"{counts['ok']} ok, {counts['warn']} to know, {counts['fail']} to cure before the start")


def _one_line(text: str) -> str:
    """The text in one line: a database's message may have several."""
    return printable(" ".join(text.split()))
