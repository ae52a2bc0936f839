"""How the demo is shown: a live table on a terminal, plain lines everywhere else.

Guarantee: nothing but ASCII of our own making, so that every terminal can show it; a reader that went away (``| head``)
does not disturb the demo.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from replicator.ops.terminal import printable
from replicator.status.text import seconds_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from replicator.ops.demo.story import DemoStory
    from replicator.ops.demo.watch import RegionState

LINE_SECONDS = 2.0
_STYLES = {"working": "green", "idle": "green", "starting": "yellow", "waiting": "yellow"}


class PlainLog:
    """Plain lines, one an event, and the figures now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_at = 0.0

    def say(self, line: str) -> None:
        """Write a line."""
        try:
            print(printable(line), file=self._stream, flush=True)
        except BrokenPipeError:
            with open(os.devnull, "w") as nowhere:  # else Python complains when it flushes at its end
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def figures(self, story: DemoStory) -> None:
        """A line of figures every other second."""
        if time.monotonic() - self._shown_at >= LINE_SECONDS:
            self._shown_at = time.monotonic()
            self.say("  ".join(_state_line(state) for state in story.states))


class LiveTable:
    """A table that is drawn anew, with the events above it."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live

    def say(self, line: str) -> None:
        """Write a line above the table."""
        from rich.text import Text

        self._console.print(Text(printable(line)))

    def figures(self, story: DemoStory) -> None:
        """Draw the table anew."""
        self._live.update(_table(story), refresh=True)


@contextlib.contextmanager
def showing(*, on_stderr: bool) -> Iterator[PlainLog | LiveTable]:
    """The way to show that fits: lines to stderr if stdout is for something else."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if on_stderr:
        yield PlainLog(sys.stderr)
    elif not console.is_terminal or console.is_dumb_terminal:
        yield PlainLog(sys.stdout)
    else:
        with Live(console=console, auto_refresh=False) as live:
            yield LiveTable(console, live)


def _state_line(state: RegionState) -> str:
    blocks, seconds = _lag(state)
    lag = "" if state.role == "primary" else f", {blocks} blocks, {seconds} behind"
    return f"{state.name} {state.condition} at {state.sequence:,}{lag}"


def _lag(state: RegionState) -> tuple[str, str]:
    """In blocks and in time."""
    return (
        "?" if state.lag_blocks is None else f"{state.lag_blocks:,}",
        "?" if state.lag_seconds is None else seconds_text(state.lag_seconds),
    )


def _table(story: DemoStory) -> Table:
    from rich import box
    from rich.table import Table

    books, tally = story.customers.books, story.customers.tally
    times = sorted(tally.read_seconds[-1000:])
    reads = f"; own writes read elsewhere in {times[len(times) // 2] * 1000:.0f} ms" if times else ""
    caption = f"{books.acknowledged:,} acknowledged, {books.refused:,} refused, {tally.repeated:,} repeated{reads}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    right = {"sequence", "behind", "lag", "writes/s"}
    for name in ("region", "role", "sequence", "behind", "lag", "writes/s", "condition", "last verified"):
        # Cropped: the sign that rich puts in place of what does not fit is not ASCII.
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True, overflow="crop")
    for state in story.states:
        table.add_row(
            state.name,
            state.role,
            f"{state.sequence:,}",
            *(("", "") if state.role == "primary" else _lag(state)),
            f"{state.rate:,.0f}",
            f"[{_STYLES.get(state.condition, 'bold red')}]{state.condition}[/]",
            "" if state.role == "primary" else state.verified,
        )
    return table
