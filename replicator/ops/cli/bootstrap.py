"""``replicator bootstrap``: a region is made anew from a consistent copy of another one."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicator.ops.cli import example
from replicator.ops.terminal import log_to_stderr, printable, progress_bar

if TYPE_CHECKING:
    from replicator.format.position import Position
    from replicator.ops.bootstrap.bootstrap import Bootstrap, CopyProgress

LOOK_SECONDS = 0.25
LOG_SECONDS = 10.0


@click.command("bootstrap")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--from", "url", help="The region to copy, by its sidecar's address; without it the one in [follow].")
@click.option("--plan", "planned", is_flag=True, help="Show what would happen; change nothing.")
@click.option("--replace", is_flag=True, help="Set aside what the region has now.")
@click.option("--allow-data-loss", is_flag=True, help="Give up rows that only this region may have.")
@click.option("--rate", type=click.IntRange(min=1), help="At most so many rows a second.")
@click.option("--json", "as_json", is_flag=True, help="The plan, or the result, as JSON.")
@example(
    "replicator bootstrap tokyo.toml --plan",
    "replicator bootstrap tokyo.toml --from https://lima.example:7400 --rate 20000",
    "replicator bootstrap tokyo.toml --replace",
)
def command(
    config: Path,
    url: str | None,
    planned: bool,
    replace: bool,
    allow_data_loss: bool,
    rate: int | None,
    as_json: bool,
) -> None:
    """Makes the replica region of CONFIG anew: a copy of another one at one exact position, then the feed from there.

    For a new region whose primary has pruned its journal, and for one that was away for too long. The region's own
    sidecar must be stopped; any region that holds everything can be copied while it runs, the primary or another one.
    Its token is that of [follow].

    It may be killed at any time: called again it goes on where it was, if the other region still holds the moment
    ([copy] hold there), else it begins anew. Until it is whole the tables are being filled and have no position, and
    replicator run refuses the region.

    A region that has data is refused without --replace. With it any region is made anew, whatever it was and wherever
    it was stopped: what only it has is sealed first, or stays in the journal that is set aside; its files are renamed;
    in PostgreSQL this ledger's own tables are emptied, are closed to applications until the sidecar opens them, and a
    former primary's slot and publication are dropped. What is refused because rows may be nowhere else is given up only
    by --allow-data-loss. A region that holds the lease is always refused.

    Exit code 0: whole; start it with replicator run. 1: refused or failed; call it again. 2: wrong usage or
    configuration.
    """
    import trio

    from replicator.config import load
    from replicator.config.roles import in_role
    from replicator.config.roles import source_of as source_of_ledger
    from replicator.errors import ConfigError, ReplicatorError
    from replicator.format.evolution import RESYNC
    from replicator.ops.bootstrap.bootstrap import Bootstrap, CopyProgress, plan, source_of
    from replicator.runtime.identity import check_name
    from replicator.supervise import first_cause

    settings = load(config)
    ledger = source_of_ledger(settings) if settings.cluster is not None else None
    if settings.cluster is not None:  # whatever it was before, it is made anew as a replica
        settings = in_role(settings, "replica", 1)
    if settings.region.role != "replica":
        message = "a primary is not made anew from another region: only a replica is"
        cure = "name the configuration of a replica region"
        if settings.source is not None and settings.source.kind == "postgres":
            cure += f"; for a primary whose source has halted for good: {RESYNC}"
        raise ConfigError("not_a_replica", message, place=settings.region.name, cure=cure)
    check_name(settings)
    source = source_of(settings, _checked(url))
    log_to_stderr()
    try:
        if planned:
            content = trio.run(lambda: plan(settings, source, replace=replace, named=url is not None))
            click.echo(json.dumps(content, indent=2) if as_json else printable("\n".join(_plan_lines(content))))
            return
        report = CopyProgress()
        bootstrap = Bootstrap(
            settings,
            source,
            replace=replace,
            rate=rate,
            report=report,
            named=url is not None,
            ledger=ledger,
            allow_data_loss=allow_data_loss,
        )
        position = trio.run(_run_shown, bootstrap, report)
    except* ReplicatorError as group:
        raise first_cause(group) from None
    if as_json:
        done = {"position": str(position), "rows": report.rows, "set_aside": report.set_aside}
        click.echo(json.dumps(done, indent=2))
        return
    for aside in report.set_aside:
        click.echo(printable(f"set aside: {aside}"))
    click.echo(
        printable(f"whole at sequence {position.sequence:,}: {report.rows:,} rows. Now: replicator run {config}")
    )


def _checked(url: str | None) -> str | None:
    from pydantic import TypeAdapter, ValidationError

    from replicator.config.models import FollowSettings
    from replicator.errors import ConfigError

    if url is None:
        return None
    try:
        return TypeAdapter(FollowSettings).validate_python({"primary": url}).primary
    except ValidationError as error:
        cure = "write it like https://lima.example:7400"
        raise ConfigError("bad_url", "this is no address", place=f"--from {url}", cure=cure) from error


async def _run_shown(bootstrap: Bootstrap, report: CopyProgress) -> Position:
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_draw if sys.stderr.isatty() else _log, report)
        position = await bootstrap.run()
        nursery.cancel_scope.cancel()
    return position


async def _draw(report: CopyProgress) -> None:
    import trio

    with progress_bar("copy", "rows") as show:
        while True:
            show(report.rows, report.rows_estimate, "copy waits" if report.waits else report.phase)
            await trio.sleep(LOOK_SECONDS)


async def _log(report: CopyProgress) -> None:
    import trio

    while True:
        await trio.sleep(LOG_SECONDS)
        of_all = "" if report.rows_estimate is None else f" of about {report.rows_estimate:,}"
        logging.getLogger("replicator").info("%s: %s rows%s", report.phase, f"{report.rows:,}", of_all)


def _plan_lines(plan: dict[str, Any]) -> Iterator[str]:
    rows = "rows" if plan["rows"] is None else f"about {plan['rows']:,} rows"
    yield f"copy from {plan['from']}, now at {plan['position']}: {len(plan['tables'])} tables, {rows}"
    for table, count in plan["tables"].items():
        yield f"  {table}" + ("" if count is None else f": about {count:,} rows")
    yield f"what would be done: {plan['way']}"
    for name in ("journal", "replica"):
        if plan[name] is not None:
            yield f"  this region's {name} is at {plan[name]}"
    yield from (f"  would be set aside: {file}" for file in plan["set_aside"])
    yield from (f"  would be emptied, rows and all: table {table}" for table in plan["emptied"])
    if plan["refused"]:
        yield f"  {plan['refused']['message']}; {plan['refused']['cure']}"
