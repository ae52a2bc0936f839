"""A region's data directory: one sidecar at a time, and the same files for as long as it runs.

Guarantee: the lock goes with the process, however it ends. A file that is deleted or replaced under a running sidecar
is noticed within about a second: what is written to a file without a name is durable as it seems, and is gone with the
process.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import trio

from replicator.errors import ConfigError

LOOK_SECONDS = 1.0


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep a second sidecar out of the data directory. The lock goes with the process, however it ends."""
    with _lock_file(directory) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "data_dir_in_use",
                "another sidecar runs on this data directory",
                place=f"[region] data_dir = {directory}",
                cure="stop the other one, or give this region a directory of its own",
            ) from None
        yield


def _lock_file(directory: Path) -> IO[str]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / "lock").open("w")
    except OSError as error:
        raise ConfigError(
            "data_dir_unusable",
            f"the data directory cannot be made or written to: {error.strerror}",
            place=f"[region] data_dir = {directory}",
            cure="name a directory that this user may write to, on a disk that takes writes",
        ) from error


def identity(path: Path) -> tuple[int, int] | None:
    """Which file this is; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


async def changed(path: Path, begun: tuple[int, int] | None) -> None:
    """Return once there is another file, or none. File systems tell of it in no portable way: look now and then."""
    while await trio.to_thread.run_sync(identity, path) == begun:  # noqa: ASYNC110  # nothing sets an event
        await trio.sleep(LOOK_SECONDS)
