"""The first copy of a PostgreSQL ledger, as it goes: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from replicator.pipeline.sources.base import SourceReport

LOOK_SECONDS = 0.25
LOG_SECONDS = 10.0

log = logging.getLogger("replicator")


async def show_copy(report: SourceReport) -> None:
    """Show a source's copy, and each that is begun again, until the source streams."""
    while report.phase != "streaming":
        if report.phase == "copying":
            await (_draw(report) if sys.stderr.isatty() else _tell(report))
            log.info("first copy: %s rows were read", f"{report.copied_rows:,}")
        await trio.sleep(LOOK_SECONDS)


async def _draw(report: SourceReport) -> None:
    columns = (TextColumn("first copy"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("copy", total=report.copy_rows_estimate)
        while report.phase == "copying":
            estimate = report.copy_rows_estimate
            # The estimate is the planner's, of before: a table that has grown since must not end beyond its end.
            total = None if estimate is None else max(estimate, report.copied_rows)
            progress.update(task, total=total, completed=report.copied_rows)
            await trio.sleep(LOOK_SECONDS)


async def _tell(report: SourceReport) -> None:
    due = trio.current_time()
    while report.phase == "copying":
        if trio.current_time() >= due:
            estimate = report.copy_rows_estimate
            of_all = "" if estimate is None else f" of about {estimate:,}"
            log.info("first copy: %s rows%s", f"{report.copied_rows:,}", of_all)
            due += LOG_SECONDS
        await trio.sleep(LOOK_SECONDS)
