"""Files of regions, as a failing disk or a person leaves them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

BLOCKS = 60  # of the fixture ``pair``


def spoil(path: Path, *, whole: bool = False) -> None:
    """Flip bytes of a file that nobody has open: in its header, or in the middle of all its pages but the first."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # no log to repair it from
    connection.close()
    data = bytearray(path.read_bytes())
    places = range(16) if whole else range(4096, len(data), 97)
    for place in places:
        data[place] ^= 0xFF
    path.write_bytes(data)


def edit(path: Path, sql: str) -> None:
    """What a person does with ``sqlite3`` while the sidecar runs, or not."""
    with sqlite3.connect(path, timeout=20) as connection:
        assert connection.execute(sql).rowcount > 0, f"nothing was edited: {sql}"
    connection.close()
