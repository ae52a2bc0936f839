"""Writing small durable files.

Guarantee: a file that ``write_file`` has returned from is there whole under its name, after a loss of power too; before
that the old one is, or none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from replicator.errors import Unavailable


def write_file(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file in the place of what was there. Raises Unavailable."""
    coming = path.with_name(f"{path.name}.new")
    try:
        with coming.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(coming, path)
        sync_directory(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> Unavailable:
    """A file that cannot be written now."""
    cure = "free disk space, or mend the directory's rights; it goes on by itself"
    return Unavailable("cannot_write", error.strerror or str(error), place=str(path), cure=cure)
