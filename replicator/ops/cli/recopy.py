"""``replicator recopy``: copies tables of a captured ledger anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import post_and_confirm, sidecar_options, user_name

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint


@click.command("recopy")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True)
@sidecar_options
@example("replicator recopy paris.toml public.wallets", "replicator recopy paris.toml app.orders app.order_lines")
def command(sidecar: Endpoint, tables: tuple[str, ...], as_json: bool) -> None:
    """Copies tables of a PostgreSQL primary anew into the ledger, as they are now, while it runs.

    For whatever a table went through that the log does not tell: dropped and made again, restored, renamed, another
    key, a column that was rewritten. One block empties the table everywhere and holds its rows; its earlier changes
    are passed over, and other tables go on as ever. The regions that follow need nothing done. Until the log has come
    to the moment of the copy, the table is ahead of the others.

    Name all tables that changed together: until a source that was halted has them all, it halts at the next one.

    Exit code 0: noted, and begun; see replicator status CONFIG. 1: refused, or not reachable. 2: wrong usage or
    configuration.
    """
    fields = {"tables": list(tables), "who": user_name()}
    done = f"copied anew: {', '.join(tables)}; see replicator status CONFIG"
    post_and_confirm(sidecar, "/v1/recopy", fields, done, as_json=as_json)
