"""Small files that are whole, or as they were before.

Guarantee: a file that ``replace_file`` has returned from is there whole under its name, after a loss of power too;
before that the old one is, or none. Both raise OSError: whoever calls knows what it means and what cures it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def replace_file(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file in the place of what was there: aside, synced, renamed, its name synced."""
    coming = path.with_name(f"{path.name}.new")
    # What is written may name files, whose names may hold bytes that are no text.
    with coming.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())  # before it has the name: a file system may make a new name durable before the content
    coming.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
