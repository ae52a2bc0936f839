"""``replicator run``: the sidecar of a region, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import example
from replicator.ops.interrupts import ending_at_interrupts
from replicator.ops.terminal import log_to_stderr, progress_bar

if TYPE_CHECKING:
    from replicator.pipeline.sources.base import SourceReport

LOOK_SECONDS = 0.25
LOG_SECONDS = 10.0
COLLECT_EVERY = 100_000  # new containers


@click.command("run")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--verbose", "-v", is_flag=True, help="Log what is only of use when something is looked for.")
@click.option(
    "--new-identity",
    is_flag=True,
    help="The data directory is this region's from now on, as CONFIG says, whatever it was noted as.",
)
@click.option(
    "--with-stdin", is_flag=True, help="Stop, too, when standard input ends: with the program that started it."
)
@example("replicator run config/embedded-primary.toml")
def command(config: Path, verbose: bool, new_identity: bool, with_stdin: bool) -> None:
    """The sidecar of the region that CONFIG describes.

    Runs until SIGTERM or SIGINT, then stops in order within [stop] deadline. It may be killed at any time: it goes on
    from what is durable. Logs go to standard error.

    The data directory is noted as this region's at its first start. A configuration of another name, role or cluster is
    refused, unless --new-identity says that it is meant.

    Exit code 0: stopped as told. 1: ended hard after the deadline, or could not start. 2: wrong usage or configuration.
    An interrupt before it listens, or a second one, ends it at once.
    """
    with ending_at_interrupts():  # a sidecar that is killed anywhere loses nothing
        import trio

        from replicator.config import load
        from replicator.errors import ReplicatorError
        from replicator.runtime.service import run
        from replicator.supervise import first_cause

        settings = load(config)
        log_to_stderr(verbose=verbose)
        _collect_rarely()
        if with_stdin:
            _stop_with_stdin()
        try:
            trio.run(run, settings, show_copy, new_identity)
        except* ReplicatorError as group:
            raise first_cause(group) from None


def _collect_rarely() -> None:
    """Blocks and rows hold no cycles and go when they are done with; Python's default is to search through all of them
    for cycles every 700 new ones, which took a third of the time in a catch-up."""
    import gc

    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 100)


def _stop_with_stdin() -> None:
    """Send SIGTERM to ourselves once nobody holds the other end of standard input any more."""
    import os
    import threading

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # and not an exit: the sidecar stops in order

    threading.Thread(target=watch, daemon=True).start()


async def show_copy(report: SourceReport) -> None:
    """Show a source's first copy, and each that is begun again, until the source streams: a bar on a terminal, a line
    in the log now and then elsewhere."""
    import trio

    log = logging.getLogger("replicator")
    while report.phase != "streaming":
        if report.phase == "copying":
            await (_draw_copy(report) if sys.stderr.isatty() else _log_copy(report, log))
            log.info("first copy: %s rows were read", f"{report.copied_rows:,}")
        await trio.sleep(LOOK_SECONDS)


async def _draw_copy(report: SourceReport) -> None:
    import trio

    with progress_bar("first copy", "rows") as show:
        while report.phase == "copying":
            show(report.copied_rows, report.copy_rows_estimate)
            await trio.sleep(LOOK_SECONDS)


async def _log_copy(report: SourceReport, log: logging.Logger) -> None:
    import trio

    due = trio.current_time()
    while report.phase == "copying":
        if trio.current_time() >= due:
            estimate = report.copy_rows_estimate
            of_all = "" if estimate is None else f" of about {estimate:,}"
            log.info("first copy: %s rows%s", f"{report.copied_rows:,}", of_all)
            due += LOG_SECONDS
        await trio.sleep(LOOK_SECONDS)
