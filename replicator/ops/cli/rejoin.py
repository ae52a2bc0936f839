"""``replicator rejoin``."""

from __future__ import annotations

from pathlib import Path

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import give_order, reason_option, whom_options


@click.command("rejoin")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@reason_option
@whom_options
@example("replicator rejoin tokyo.toml")
def command(config: Path | None, reason: str, url: str | None, ca: Path | None, as_json: bool) -> None:
    """Lets a former primary, whose orphans are sealed, come back as a replica; or a halted one try again.

    Exit code 0: done. 1: refused, or not reachable. 2: wrong usage or configuration.
    """
    give_order(config, url, ca, "rejoin", "it rejoins", reason, as_json=as_json)
