"""A run of the demo from the outside: a directory for it, signals, and nothing left behind."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

from replicator.errors import ConfigError, ReplicatorError
from replicator.ops.demo.report import DemoReport
from replicator.ops.demo.show import showing
from replicator.ops.demo.story import DemoStory, StoryOutput
from replicator.supervise import first_cause

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(keep: Path | None, seconds: float, *, as_json: bool) -> DemoReport:
    """Run the demo. Raises ReplicatorError if it does not come to its end, SystemExit if a signal ends it."""
    with _directory(keep) as directory, showing(on_stderr=as_json) as show:
        try:
            report = trio.run(_until_signal, directory, seconds, show)
        except* ReplicatorError as group:
            raise first_cause(group) from None
    if isinstance(report, DemoReport):
        return report
    print(f"ended by {report.name}", file=sys.stderr)
    sys.exit(128 + report)


async def _until_signal(directory: Path, seconds: float, show: StoryOutput) -> DemoReport | signal.Signals:
    """The report; or the signal that came first, with everything ended."""
    outcome: DemoReport | signal.Signals | None = None
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:

            async def wait_for_signal() -> None:
                nonlocal outcome
                outcome = signal.Signals(await anext(aiter(signals)))
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_for_signal)
            outcome = await DemoStory(directory, seconds, show).tell()
            nursery.cancel_scope.cancel()
    assert outcome is not None
    return outcome


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """Where the regions live: a new directory that stays, or one that goes."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="replicator-demo-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        is_empty = not any(keep.iterdir())
    except OSError as error:
        message = f"the directory cannot be made: {error.strerror}"
        raise ConfigError("cannot_keep", message, place=f"--keep {keep}", cure="name another one") from error
    if not is_empty:
        raise ConfigError(
            "not_empty", "there is something in it", place=f"--keep {keep}", cure="name a new or empty directory"
        )
    yield keep.absolute()
