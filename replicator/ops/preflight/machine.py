"""What the machine must have: versions, a directory that can be written, room on its disk, and nobody else in it."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from replicator.config import Config
from replicator.config.finding import Finding, failed
from replicator.errors import Halted, ReplicatorError
from replicator.pipeline.replicas.sqlite.check import OLDEST_VERSION
from replicator.runtime.identity import difference
from replicator.storage.data_dir import DataDir

LEAST_FREE_BYTES = 100_000_000
LITTLE_FREE_BYTES = 1_000_000_000


def check_versions() -> Iterator[Finding]:
    """Python and SQLite."""
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < OLDEST_VERSION:
        needed = ".".join(map(str, OLDEST_VERSION))
        yield Finding("fail", f"{versions}: SQLite {needed} is needed", "run Python with a newer SQLite")
    else:
        yield Finding("ok", versions)


def check_data_dir(config: Config) -> Iterator[Finding]:
    """The region's directory: it, or where it will be made, and what lies in it, can be written."""
    data_dir = config.region.files
    directory = data_dir.path
    place = f"[region] data_dir = {directory}"
    there = nearest(directory)
    if not there.is_dir():
        yield Finding("fail", f"{place}: {there} is no directory", "name another directory, or move the file away")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        cure = "give the sidecar's user the right to, or name another directory"
        yield Finding("fail", f"{place}: {there} cannot be written", cure)
        return
    if there == directory:
        closed = [path.name for path in sorted(directory.iterdir()) if not os.access(path, os.R_OK | os.W_OK)]
        if closed:
            cure = "give them to the user that the sidecar runs as"
            yield Finding("fail", f"{place}: files that cannot be written: {', '.join(closed)}", cure)
        else:
            yield Finding("ok", f"{place} can be written")
        yield from _check_lock(data_dir, place)
        yield from _check_identity(config)
    else:
        yield Finding("ok", f"{place} can be made")
    yield from _check_room(config, there)


def _check_identity(config: Config) -> Iterator[Finding]:
    try:
        error: ReplicatorError | None = difference(config)
    except Halted as unreadable:
        error = unreadable
    if error is not None:
        yield failed(error)


def nearest(path: Path) -> Path:
    """The path, or of those above it the nearest that exists."""
    return next(candidate for candidate in (path, *path.parents) if candidate.exists() or candidate == candidate.parent)


def is_running(data_dir: DataDir) -> bool:
    """Whether a sidecar holds the lock. Asking takes a shared one for a moment; it is given back at once."""
    try:
        with data_dir.lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no lock yet, or not ours to read, which is said otherwise
    return False


def _check_lock(data_dir: DataDir, place: str) -> Iterator[Finding]:
    if is_running(data_dir):
        cure = "nothing if it is meant to run; otherwise stop it, or give this region a directory of its own"
        yield Finding("warn", f"{place}: a sidecar runs on it", cure)


def _check_room(config: Config, there: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Finding("warn", f"the room on the disk of {there} is not known: {error.strerror}", "look at the disk")
        return
    what = f"{_size(free)} are free on the disk of {there}"
    cure = "free disk space, or name a data_dir on a larger disk"
    if free < LEAST_FREE_BYTES:
        yield Finding("fail", what, cure)
    elif free < LITTLE_FREE_BYTES:
        yield Finding("warn", what, cure)
    elif config.region.role == "replica" and free < config.settle.max_bytes:
        what += f", the settle buffer may take {_size(config.settle.max_bytes)}"
        yield Finding("warn", what, "free disk space, or set [settle] max_bytes lower")
    else:
        yield Finding("ok", what)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
