"""What a replica had received and could not settle, when it becomes the primary.

Guarantee: nothing of it is ever settled. It lies behind a gap of the old epoch, and the chain goes on without it; who
has those blocks keeps them as orphans.
"""

from __future__ import annotations

from pathlib import Path

from replicator.errors import Unavailable


def discard_spool(path: Path) -> None:
    """Remove the spool's files; nobody has them open. May be repeated. Raises Unavailable."""
    try:
        for suffix in ("-shm", "-wal", ""):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        cure = "mend the disk or the directory's rights; it goes on by itself"
        raise Unavailable("cannot_write", error.strerror or "", place=str(path), cure=cure) from error
