"""``replicator resync --to TIME --into PATH_OR_DSN``: a copy of the ledger as of a moment."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli.common import Answer, existing_journal
from replicator.ops.terminal import printable, progress_bar

if TYPE_CHECKING:
    from replicator.config import Config
    from replicator.storage.journal.store import Journal
    from replicator.verify.repair.point_in_time import CopyDatabase, PointInTime

TRIAL_SECONDS = 2.0


def build_copy(settings: Config, at: int, into: str, *, plan: bool, as_json: bool) -> None:
    """Build a copy of the ledger as of ``at`` (µs since 1970), or say what it takes."""
    from replicator.ledger.presentation import show_time
    from replicator.storage.journal.store import Journal
    from replicator.verify.repair.point_in_time import copy_into, target

    strand = settings.region.strand
    # Without a trace: the sidecar may run meanwhile, or never have run on this machine.
    with contextlib.closing(Journal(existing_journal(settings), traceless=True)) as journal:
        moment, copy = target(journal, strand, at), copy_into(into)
        content: Answer = {
            "at": show_time(at),
            "position": str(moment.position),
            "sequence": moment.position.sequence,
            "committed_at": show_time(moment.committed_at) if moment.position.sequence else None,
            "journal_reaches_beyond": moment.is_behind,
            "into": copy.place,
        }
        if plan:
            content |= _plan(journal, strand, moment)
            lines = list(_plan_lines(content))
        else:
            content |= _build(journal, strand, moment, copy)
            lines = [f"{copy.place} holds the ledger {_as_of(content)}", *content["notes"]]
    if not moment.is_behind:
        lines.append("no later block is here yet: what was committed before then and has not arrived is not in it")
    click.echo(json.dumps(content, indent=2) if as_json else printable("\n".join(lines)))


def _as_of(content: Answer) -> str:
    committed_at = content["committed_at"]
    last = f"its last block was committed at {committed_at}" if committed_at else "before the first block"
    return f"as of {content['at']}: {content['position']} ({last})"


def _build(journal: Journal, strand: str, moment: PointInTime, copy: CopyDatabase) -> Answer:
    from replicator.verify.repair.point_in_time import build

    if copy.claim(moment):
        return {"blocks": moment.position.sequence, "notes": ["it was finished before; nothing was done"]}
    with progress_bar("blocks") as show:
        show(0, moment.position.sequence)
        for applied in build(journal, strand, moment, copy):
            show(applied.position.sequence, moment.position.sequence)
    return {"blocks": moment.position.sequence, "notes": [copy.finish(moment)]}


def _plan(journal: Journal, strand: str, moment: PointInTime) -> Answer:
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


def _plan_lines(content: Answer) -> Iterator[str]:
    rate = content["blocks_per_second"] or 0
    yield f"the ledger {_as_of(content)}"
    yield f"  blocks    {content['blocks']:,}"
    yield f"  bytes     {content['bytes']:,}"
    seconds = content["expected_seconds"]
    yield f"  duration  about {seconds:.1f} s: {rate:,.0f} blocks/s, measured into a SQLite file now"
    yield "nothing was built"
