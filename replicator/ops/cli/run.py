"""``replicator run``: the sidecar of a region, until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from replicator.ops.cli import example

COLLECT_EVERY = 100_000  # new containers


def _collect_rarely() -> None:
    """Blocks and rows hold no cycles and go when they are done with; Python's default is to search through all of them
    for cycles every 700 new ones, which took a third of the time in a catch-up."""
    import gc

    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 100)


def _stop_with_stdin() -> None:
    """SIGTERM to ourselves once nobody holds the other end of standard input any more."""
    import os
    import signal
    import threading

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@click.command("run")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--verbose", "-v", is_flag=True, help="Log what is only of use when something is looked for.")
@click.option(
    "--with-stdin", is_flag=True, help="Stop, too, when standard input ends: with the program that started it."
)
@example("replicator run config/embedded-primary.toml")
def command(config: Path, verbose: bool, with_stdin: bool) -> None:
    """The sidecar of the region that CONFIG describes.

    Runs until SIGTERM or SIGINT, then stops in order within [stop] deadline. It may be killed at any time: it goes on
    from what is durable. Logs go to standard error. Exit code 0: stopped as told. 1: ended hard after the deadline, or
    could not start. 2: wrong usage or configuration.
    """
    import trio

    from replicator.config import load
    from replicator.errors import ReplicatorError
    from replicator.ops.cli.copying import show_copy
    from replicator.ops.cli.logs import log_to_stderr
    from replicator.runtime.service import run
    from replicator.supervise import first_cause

    settings = load(config)
    log_to_stderr(verbose=verbose)
    _collect_rarely()
    if with_stdin:
        _stop_with_stdin()
    try:
        trio.run(run, settings, show_copy)
    except* ReplicatorError as group:
        raise first_cause(group) from None
