"""``replicator rebuild``: makes again what a region derives from its journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import exit_with
from replicator.ops.terminal import progress_bar


@click.command("rebuild")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--journal",
    "other",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="First put a copy of this journal, of a region that follows, in the place of an embedded ledger's own.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@example("replicator rebuild paris.toml", "replicator rebuild paris.toml --journal /mnt/tokyo/data/journal.sqlite3")
def command(config: Path, other: Path | None, as_json: bool) -> None:
    """Makes again what a region derives from its journal: tables in SQLite, the requests, the index of the past.

    For whenever one of these files is damaged, was edited, or is in doubt. The sidecar must be stopped. First the whole
    journal is proven; then the files are set aside, not removed, and made again. Rows in PostgreSQL are not touched:
    replicator repair, and bootstrap, see to those. Idempotency keys are known again as far back as the journal
    reaches.

    Exit code 0: made. 1: it cannot be made from this journal; the cure is named. 2: wrong usage or configuration, or
    the sidecar runs.
    """
    from replicator.config import load
    from replicator.ops.rebuild import rebuild, take_journal
    from replicator.storage.data_dir import locked

    settings = load(config)
    content: dict[str, Any] = {}
    lines: list[str] = []
    with locked(settings.region.files), progress_bar("rebuild", "blocks") as show:
        if other is not None:
            position, aside = take_journal(settings, other)
            content["journal"] = {"position": str(position), "set_aside": None if aside is None else str(aside)}
            lines.append(f"the journal is a copy of {other}, up to {position}")
            lines += [] if aside is None else [f"  what was there is {aside}"]
        made = rebuild(settings, lambda done, of, what: show(done, of, what))
    content |= {
        "position": str(made.position),
        "made": list(map(str, made.made)),
        "set_aside": list(map(str, made.set_aside)),
    }
    lines.append(f"made again from the journal, whole up to {made.position}")
    lines += [f"  {file}" for file in made.made]
    lines += [f"  what was there is {file}" for file in made.set_aside]
    exit_with(0, content, lines, as_json=as_json)
