"""``replicator rejoin``: a former primary comes back as a replica."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import give_order, reason_option, sidecar_options

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint


@click.command("rejoin")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--undo",
    metavar="TABLE",
    multiple=True,
    help="Let everything of this table go that only this region has, however much it is; the seal keeps it.",
)
@reason_option
@sidecar_options
@example("replicator rejoin tokyo.toml", "replicator rejoin tokyo.toml --undo public.wallets --reason 'a test load'")
def command(sidecar: Endpoint, undo: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Lets a former primary, whose orphans are sealed, come back as a replica; or a halted one try again.

    A region halts on its way back rather than undo the ledger's first copy, or a large share of a table: that is for
    a person to say, table by table.

    Exit code 0: done. 1: refused, or not reachable. 2: wrong usage or configuration.
    """
    give_order(sidecar, "rejoin", "it rejoins", reason, as_json=as_json, **({"undo": list(undo)} if undo else {}))
