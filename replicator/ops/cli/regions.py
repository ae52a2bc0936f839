"""``replicator regions``: who follows a region, what its journal is kept for, and that a region is gone for good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import (
    Answer,
    ListsByDefault,
    get_and_show,
    post_and_confirm,
    sidecar_options,
    user_name,
)

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint


@click.group("regions", cls=ListsByDefault)
def command() -> None:
    """The regions that have followed this one; its journal is kept for each of them. Without another word: list."""


@command.command("list")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@sidecar_options
@example("replicator regions region.toml", "replicator regions list region.toml --json")
def list_(sidecar: Endpoint, as_json: bool) -> None:
    """Lists every region that has followed this one: up to where it has everything, and when it last said so.

    connected: it follows now. away: the journal is kept for it. lost: the budget was used up and what it needs next is
    gone; it has to be made anew (replicator bootstrap). forgotten: nothing is kept for it. Exit code 0: told. 1: not
    reachable. 2: wrong usage or configuration.
    """
    get_and_show(sidecar, "/v1/regions", _lines, as_json=as_json)


@command.command("forget")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--reason", required=True, help="Why; it is kept, logged, and shown.")
@click.option("--who", help="Who takes the responsibility; without it user@machine.")
@sidecar_options
@example('replicator regions forget paris.toml lima --reason "the region was closed"')
def forget(sidecar: Endpoint, name: str, reason: str, who: str | None, as_json: bool) -> None:
    """Keeps nothing for the region NAME any more: it is gone for good.

    If it comes back and what it needs is still here, it is known again; if not, it halts and has to be made anew. A
    region that is connected is refused. Exit code 0: forgotten. 1: refused, or not reachable. 2: wrong usage.
    """
    fields = {"region": name, "who": who or user_name(), "why": reason}
    done = f"forgotten: {name}. Nothing is kept for it any more."
    post_and_confirm(sidecar, "/v1/regions/forget", fields, done, as_json=as_json)


def _lines(answer: Answer) -> Iterator[str]:
    from replicator.status.text import seconds_text

    if answer["begins_behind"]:
        yield f"the journal begins behind sequence {answer['begins_behind']:,}"
    if not answer["regions"]:
        yield "no region has followed this one"
    for region in answer["regions"]:
        ago = seconds_text(float(region["reported_age_seconds"]))
        line = f"{region['region']}: {region['state']}, has everything up to {region['sequence']:,}, said {ago} ago"
        yield line + (f" ({region['forgotten']})" if region["forgotten"] else "")
    if holder := answer["held_by"]:
        at = f"which is at sequence {holder['sequence']:,}"
        yield f"more of the journal should go; held back by {holder['who']}, {at}"
