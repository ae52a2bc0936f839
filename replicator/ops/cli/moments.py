"""``replicator resync --to TIME --into PATH_OR_DSN``: a copy of the ledger as of a moment."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicator.ops.cli import printable

if TYPE_CHECKING:
    from replicator.config import Config
    from replicator.storage.journal.store import Journal
    from replicator.verify.repair.point_in_time import CopyDatabase, PointInTime

TRIAL_SECONDS = 2.0


def travel(settings: Config, at: int, into: str, *, plan: bool, as_json: bool) -> None:
    """Build the copy, or say what it takes."""
    from replicator.errors import ConfigError
    from replicator.ledger.presentation import show_time
    from replicator.storage.journal.store import Journal
    from replicator.verify.repair.point_in_time import copy_into, target

    path, strand = settings.region.files.journal, settings.region.strand
    if not path.exists():
        cure = "name the configuration of a region that has run"
        raise ConfigError("no_journal", "there is no journal", place=str(path), cure=cure)
    with contextlib.closing(Journal(path, traceless=True)) as journal:
        moment, copy = target(journal, strand, at), copy_into(into)
        content: dict[str, Any] = {
            "at": show_time(at),
            "position": str(moment.position),
            "sequence": moment.position.sequence,
            "committed_at": show_time(moment.committed_at) if moment.position.sequence else None,
            "journal_reaches_beyond": moment.is_behind,
            "into": copy.place,
        }
        if plan:
            content |= _plan(journal, strand, moment)
            lines = _plan_lines(content)
        else:
            content |= _build(journal, strand, moment, copy)
            lines = [f"{copy.place} holds the ledger {_as_of(content)}", *content["notes"]]
    if not moment.is_behind:
        lines.append("no later block is here yet: what was committed before then and has not arrived is not in it")
    click.echo(json.dumps(content, indent=2) if as_json else printable("\n".join(lines)))


def _as_of(content: dict[str, Any]) -> str:
    committed_at = content["committed_at"]
    last = f"its last block was committed at {committed_at}" if committed_at else "before the first block"
    return f"as of {content['at']}: {content['position']} ({last})"


def _build(journal: Journal, strand: str, moment: PointInTime, copy: CopyDatabase) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from replicator.verify.repair.point_in_time import build

    if copy.claim(moment):
        return {"blocks": moment.position.sequence, "notes": ["it was finished before; nothing was done"]}
    columns = (TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("copy", total=moment.position.sequence)
        for applied in build(journal, strand, moment, copy):
            progress.update(task, completed=applied.position.sequence)
    return {"blocks": moment.position.sequence, "notes": [copy.finish(moment)]}


def _plan(journal: Journal, strand: str, moment: PointInTime) -> dict[str, Any]:
    """Blocks and bytes, and the time by the rate of a short trial into a file of its own."""
    from replicator.verify.repair.point_in_time import measured_rate

    with tempfile.TemporaryDirectory(prefix="replicator-plan-") as directory:
        path = Path(directory) / "trial.sqlite3"
        rate = measured_rate(journal, strand, moment, path, time.monotonic, TRIAL_SECONDS)
    size, after = 0, 0
    while after < moment.position.sequence and (blocks := journal.blocks(strand, after, 4 << 20)):
        after = blocks[-1].header.sequence
        size += sum(block.header.body_bytes for block in blocks if block.header.sequence <= moment.position.sequence)
    return {
        "blocks": moment.position.sequence,
        "bytes": size,
        "blocks_per_second": rate,
        "expected_seconds": moment.position.sequence / rate if rate else 0.0,
    }


def _plan_lines(content: dict[str, Any]) -> list[str]:
    rate = content["blocks_per_second"] or 0
    return [
        f"the ledger {_as_of(content)}",
        f"  blocks    {content['blocks']:,}",
        f"  bytes     {content['bytes']:,}",
        f"  duration  about {content['expected_seconds']:.1f} s: {rate:,.0f} blocks/s, measured into a SQLite file now",
        "nothing was built",
    ]
