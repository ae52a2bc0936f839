"""What sealed blocks touch: each key once, in a scratch file.

Guarantee: every key whose row may be another one after the blocks is there (``rewrite/touched.py`` says what touches),
with what its first statement tells of the time before: an INSERT says that there was no row. Memory does not grow with
the blocks. The file is derived from the seal; it is made anew by whoever needs it and is gone when it is closed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple

from replicator.journal.sealed import SealedBlocks
from replicator.rewrite.touched import Touched
from replicator.statement import INSERT

CHUNK_KEYS = 500
_SCHEMA = """CREATE TABLE touched (number INTEGER PRIMARY KEY, label TEXT, key BLOB, was_absent INTEGER,
             UNIQUE (label, key))"""


class Touch(NamedTuple):
    """A key of a table (canonical), and whether there was certainly no row under it before the blocks."""

    label: str
    key: bytes
    was_absent: bool


class Touches:
    """The touches of one seal's blocks. One thread at a time; ``close`` it."""

    def __init__(self, sealed: SealedBlocks) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # a file of its own, then gone
        self.truncated: set[str] = set()
        self._db.execute(_SCHEMA)
        self._db.execute("BEGIN")
        self._gather(sealed)
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _gather(self, sealed: SealedBlocks) -> None:
        touched = Touched(sealed.definitions())
        for piece in sealed.pieces():
            for ordinal, statement in enumerate(piece.statements(), piece.ordinal):
                touched.add(piece.sequence, [statement], ordinal)
                self._take(touched, statement)
                touched.clear()

    def _take(self, touched: Touched, statement: list[Any]) -> None:
        op = statement[0]
        self.truncated.update(touched.truncated)
        rows = [(label, key, op == INSERT and label not in self.truncated) for label, key in touched.keys]
        self._db.executemany("INSERT OR IGNORE INTO touched (label, key, was_absent) VALUES (?, ?, ?)", rows)

    def chunks(self) -> Iterator[list[Touch]]:
        """All of them, some at a time, in the order in which they were first touched."""
        after = 0
        query = "SELECT number, label, key, was_absent FROM touched WHERE number > ? ORDER BY number LIMIT ?"
        while rows := self._db.execute(query, (after, CHUNK_KEYS)).fetchall():
            yield [Touch(label, key, bool(was_absent)) for _, label, key, was_absent in rows]
            after = rows[-1][0]

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM touched").fetchone()[0])
