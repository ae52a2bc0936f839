"""Writing the small durable files of coming back (``durable``), with errors as this part tells them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from replicator.errors import Unavailable
from replicator.storage.atomic_file import replace_file


def write_file(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file in the place of what was there. Raises Unavailable."""
    try:
        replace_file(path, pieces)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> Unavailable:
    """A file that cannot be written now."""
    cure = "free disk space, or mend the directory's rights; it goes on by itself"
    return Unavailable("cannot_write", error.strerror or str(error), place=str(path), cure=cure)
