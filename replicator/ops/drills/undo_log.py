"""What a drill has to undo, written down before it is done.

Guarantee: a note is durable before the thing that it tells how to undo; it goes only after that was undone. Its file is
locked for as long as the drill lives, however that ends: a note without a lock is one of a drill that was killed, and
the next drill undoes it first. A note that cannot be undone stays, and is named with what to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from replicator.errors import ConfigError, Unavailable
from replicator.storage.atomic_file import sync_directory

LIMIT_BYTES = 1_000_000
SUFFIX = ".undo.json"


class DrillNote:
    """One drill's note. ``write`` it before each thing that has to be undone, ``clear`` it when nothing has to be."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path = path
        self._file = file

    def write(self, fields: dict[str, Any]) -> None:
        """Durable on return. Written in place, because the lock is the file's: a drill killed meanwhile has not done
        what the note is for yet, so a torn note undoes nothing, or what the one before it told."""
        text = json.dumps(fields) + "\n"
        self._file.seek(0, os.SEEK_END)
        self._file.write(text)  # a line behind the others: the last whole one counts
        self._file.flush()
        os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Remove the note: nothing is to be undone any more."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_note(directory: Path, name: str) -> Iterator[DrillNote]:
    """A note of this drill, locked. It stays behind only if it was written and not cleared."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is noted here is run
        path = directory / f"{name}{SUFFIX}"
        file = path.open("x")
    except OSError as error:
        cure = "name a directory that this user may write to: --state DIR"
        message = f"notes of what is to be undone cannot be kept: {error.strerror}"
        raise ConfigError("state_unusable", message, place=str(directory), cure=cure) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sync_directory(directory)
        try:
            yield DrillNote(path, file)
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()  # nothing was begun


class DrillLeftover:
    """The note of a drill that was killed. ``fields`` is empty if it was killed before it had noted anything."""

    def __init__(self, path: Path, fields: dict[str, Any]) -> None:
        self.path = path
        self.fields = fields

    def clear(self) -> None:
        """Remove the note: what it tells of is undone."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def leftovers(directory: Path) -> Iterator[list[DrillLeftover]]:
    """The notes of drills that were killed. Raises Unavailable (``drill_runs``) if one still lives."""
    with contextlib.ExitStack() as locks:
        notes = []
        for path in sorted(directory.glob(f"*{SUFFIX}")):
            try:
                file = locks.enter_context(path.open("r+"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                continue  # its drill has ended meanwhile
            except BlockingIOError:
                cure = "wait until it has ended, or stop it (SIGTERM): it then undoes what it did"
                raise Unavailable("drill_runs", "another drill is under way", place=str(path), cure=cure) from None
            notes.append(DrillLeftover(path, _last_whole_line(file.read(LIMIT_BYTES))))
        yield notes


def _last_whole_line(text: str) -> dict[str, Any]:
    """The fields of the last line that was written whole; a kill can have torn the one behind it."""
    for line in reversed(text.split("\n")):
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict):
                return fields
    return {}
