"""``replicator history``: the starts and changes of role that a region knows of."""

from __future__ import annotations

import json
from pathlib import Path

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import readable
from replicator.ops.terminal import printable


@click.command("history")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--url", help="The sidecar's address, instead of the one in CONFIG.")
@click.option("--ca", type=click.Path(path_type=Path), help="Certificates to trust, PEM.")
@click.option("--json", "as_json", is_flag=True, help="The answer of /history as it is.")
@example("replicator history region.toml", "replicator history --url http://127.0.0.1:7400 --json")
def command(config: Path | None, url: str | None, ca: Path | None, as_json: bool) -> None:
    """The starts and changes of role that a region knows of, oldest first.

    CONFIG is the region's file: address and token are taken from it. Exit code 0: told. 1: not reachable. 2: wrong
    usage or configuration.
    """
    from replicator.ops.cli.client import get, sidecar_endpoint

    sidecar = sidecar_endpoint(config, url, ca)
    events = get(sidecar, "/history")
    if as_json:
        click.echo(json.dumps(events, indent=2))
        return
    with readable(sidecar):
        for event in events:
            line = f"{event['at']}  {event['kind']}  {event['role']}  epoch {event['epoch']}  {event['note']}"
            click.echo(printable(line.rstrip()))
