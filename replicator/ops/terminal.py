"""What a person at a terminal is shown: text that cannot steer it, progress bars, and the log.

Guarantee: control characters never reach a terminal. A bar is drawn on standard error and only where that is a
terminal, so standard output holds nothing but what was asked for. What is heavy is imported when it is used.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Protocol


class ShowProgress(Protocol):
    """Draws a bar anew: so much of ``total`` is done (None: not known yet), and ``what`` is being done."""

    def __call__(self, done: int, total: int | None, what: str | None = None) -> None: ...


def printable(text: str) -> str:
    """The text without control characters: what comes from elsewhere must not steer a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


@contextlib.contextmanager
def progress_bar(what: str, unit: str = "") -> Iterator[ShowProgress]:
    """A bar while the context lasts, named ``what``; it is gone behind it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([TextColumn(unit)] if unit else []),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=None)

        def show(done: int, total: int | None, what: str | None = None) -> None:
            # An estimate is the planner's, of before: a table that has grown since must not end beyond its end.
            total = None if total is None else max(total, done)
            progress.update(task, description=what, completed=done, total=total)

        yield show


def log_to_stderr(*, verbose: bool = False) -> None:
    """Set the process' logging up, once: a line an event, times in UTC. Libraries say only what is a warning."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("replicator").setLevel(logging.DEBUG if verbose else logging.INFO)
