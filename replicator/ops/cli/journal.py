"""``replicator journal``: looking after a region's journal."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from replicator.ops.cli import FAILED, example
from replicator.ops.cli.common import existing_journal, exit_with


@click.group("journal")
def command() -> None:
    """Looks after a region's journal."""


@command.command("verify")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--strand", help="Only this strand.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@example("replicator journal verify region.toml")
def verify(config: Path, strand: str | None, as_json: bool) -> None:
    """Walks every strand's chain: each block's body, hash and link to the one before.

    The sidecar may run meanwhile. Exit code 0: whole. 1: broken; the first broken link is named. 2: wrong usage or
    configuration.
    """
    from replicator.config import load
    from replicator.storage.journal.store import Journal
    from replicator.storage.journal.walk import walk

    with contextlib.closing(Journal(existing_journal(load(config)))) as journal:
        results = [walk(journal, name) for name in ([strand] if strand else journal.strands())]
    code = 0 if all(result.broken is None for result in results) else FAILED
    exit_with(code, [result.as_json() for result in results], map(str, results), as_json=as_json)


@command.command("compact")
@click.argument("config", type=click.Path(path_type=Path))
@example("replicator journal compact region.toml")
def compact(config: Path) -> None:
    """Gives the disk back what pruning has freed in the journal's file. The sidecar must be stopped.

    It is of use after [journal] was set on a region that had kept everything: what is freed later is used again by
    itself. Needs as much free disk as the blocks that are kept. Killed at any time, the file is what it was. Exit code
    0: done. 1: failed. 2: wrong usage or configuration, or the sidecar runs.
    """
    from replicator.config import load
    from replicator.storage.data_dir import locked
    from replicator.storage.journal.pruning import compact as compact_file

    settings = load(config)
    path = existing_journal(settings)
    with locked(settings.region.files):
        before, after = compact_file(path)
    click.echo(f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now")
