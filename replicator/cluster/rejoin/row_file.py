"""Rows by table and key in a scratch file, for what is read in one order and asked for in another."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

Row = dict[str, str | None]


class KnownRow(NamedTuple):
    """A row, None if there is none; ``unknown`` says why that cannot be told. ``note`` is the writer's own."""

    row: Row | None
    unknown: str
    note: str = ""


class RowFile:
    """The file; it is gone when it is closed. One thread at a time."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(
            "CREATE TABLE row (label TEXT, key BLOB, row TEXT, unknown TEXT, note TEXT, PRIMARY KEY (label, key))"
        )
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def get(self, label: str, key: bytes) -> KnownRow | None:
        """What was set last; None if nothing was."""
        query = "SELECT row, unknown, note FROM row WHERE label = ? AND key = ?"
        row = self._db.execute(query, (label, key)).fetchone()
        return None if row is None else KnownRow(json.loads(row[0]), row[1], row[2])

    def set(self, label: str, key: bytes, known: KnownRow) -> None:
        """What is to be known of a key from now on."""
        row = (label, key, json.dumps(known.row), known.unknown, known.note)
        self._db.execute("INSERT OR REPLACE INTO row VALUES (?, ?, ?, ?, ?)", row)

    def empty(self, label: str) -> None:
        """No key of the table has a row any more."""
        self._db.execute("UPDATE row SET row = 'null', unknown = '' WHERE label = ?", (label,))
