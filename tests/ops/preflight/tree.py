"""What lies in a directory, to the byte and to the moment: equal before and after, or something was changed."""

from __future__ import annotations

import hashlib
from pathlib import Path


def tree(directory: Path) -> dict[str, tuple[int, int, str]]:
    """By path: mode, time of the last change, and content of everything below.

    Of a ``-shm`` file only that it is there: it is SQLite's shared memory, holds nothing of the database, and the first
    to read after a kill sets it up anew.
    """
    found = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.stat()
        if path.name.endswith("-shm"):
            found[str(path)] = (status.st_mode, 0, "")
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found
