"""How far what is built from the journal in a SQLite file is on disk, come what may.

Its commits do not wait for the disk, so after a loss of power it may stand earlier than readers have seen; the journal
must keep what it would read again then. Guarantee: the position given has survived on its own. A commit lies in the log
file until a checkpoint, which waits for the disk by itself, has moved it; so it is durable once that file is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from replicator.storage import sqlite

REPLICA = "SELECT sequence FROM _replicator_position WHERE strand = ?"
REQUESTS = "SELECT sequence FROM indexed WHERE strand = ?"


class SqliteDurable:
    """Asks one file; ``query`` gives the sequence of a strand."""

    def __init__(self, path: Path, strand: str, query: str = REPLICA) -> None:
        self._path = path
        self._strand = strand
        self._query = query

    def sequence(self) -> int:
        """The sequence up to which it will never ask again; 0 if that is not known. Blocks."""
        if not self._path.exists():
            return 0
        try:
            with contextlib.closing(sqlite.look(self._path)) as connection:
                row = connection.execute(self._query, (self._strand,)).fetchone()
                # Read first, then synced: the log that is synced holds at least the commit whose position was read. It
                # is there as long as its writer has it open.
                file = os.open(f"{self._path}-wal", os.O_RDONLY)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
        except (sqlite3.Error, OSError):
            return 0  # the journal then keeps everything: that costs space, and never a block
        return int(row[0]) if row else 0
