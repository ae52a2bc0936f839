"""What sealed blocks touch: each key once, in a scratch file, and in the order in which the journal is best read.

Guarantee: every key whose row may be another one after the blocks is there (``verify/repair/touched_keys.py`` says what
touches), with what its first statement tells of the time before: an INSERT says that there was no row. Memory does not
grow with the blocks. The file is derived from the seal; it is made anew by whoever needs it and is gone when it is
closed.

A row is read out of a page of some thousand blocks. Keys that are given in the order of their places have each page
read once, however many they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from replicator.format.statement import INSERT
from replicator.storage.journal.sealed import SealedBlocks
from replicator.verify.repair.images import Place
from replicator.verify.repair.touched_keys import TouchedKeys

CHUNK_KEYS = 500
_SCHEMA = """CREATE TABLE touched (number INTEGER PRIMARY KEY, label TEXT, key BLOB, was_absent INTEGER,
             sequence INTEGER, ordinal INTEGER, UNIQUE (label, key))"""


class OrphanKey(NamedTuple):
    """A key of a table (canonical), and whether there was certainly no row under it before the blocks."""

    label: str
    key: bytes
    was_absent: bool


class ScratchKeys:
    """Keys in a scratch file. One thread at a time; ``close`` it."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # a file of its own, then gone
        self._db.execute(_SCHEMA)
        self._db.execute("BEGIN")  # never committed: the file is for nobody else, and goes with the connection

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM touched").fetchone()[0])

    def add(self, keys: Iterable[OrphanKey]) -> None:
        """Add those that are not there yet."""
        self._db.executemany("INSERT OR IGNORE INTO touched (label, key, was_absent) VALUES (?, ?, ?)", keys)

    def absent_before(self) -> dict[str, int]:
        """How many keys of each table had no row before the blocks: those that go when the blocks are undone."""
        return dict(self._db.execute("SELECT label, count(*) FROM touched WHERE was_absent GROUP BY label"))

    def chunks(self) -> Iterator[list[OrphanKey]]:
        """All of them, some at a time, in the order in which they were added."""
        for rows in self._pages():
            yield [OrphanKey(label, key, bool(was_absent)) for _, label, key, was_absent in rows]

    def place(self, place_of: Callable[[str, bytes], Place | None]) -> None:
        """Find the place of each."""
        for rows in self._pages():
            places = [(*(place_of(label, key) or (None, None)), number) for number, label, key, _ in rows]
            self._db.executemany("UPDATE touched SET sequence = ?, ordinal = ? WHERE number = ?", places)

    def _pages(self) -> Iterator[list[tuple[int, str, bytes, int]]]:
        after = 0
        query = "SELECT number, label, key, was_absent FROM touched WHERE number > ? ORDER BY number LIMIT ?"
        while rows := self._db.execute(query, (after, CHUNK_KEYS)).fetchall():
            yield rows
            after = rows[-1][0]

    def in_order(self) -> Iterator[list[tuple[OrphanKey, Place | None]]]:
        """All of them, some at a time, in the order of their places."""
        query = "SELECT label, key, was_absent, sequence, ordinal FROM touched ORDER BY sequence, ordinal, number"
        cursor = self._db.execute(query)
        while rows := cursor.fetchmany(CHUNK_KEYS):
            yield [
                (OrphanKey(label, key, bool(was_absent)), None if sequence is None else (sequence, ordinal))
                for label, key, was_absent, sequence, ordinal in rows
            ]


class OrphanKeys(ScratchKeys):
    """The keys that one seal's blocks touch, and the tables that they truncate."""

    def __init__(self, sealed: SealedBlocks) -> None:
        super().__init__()
        self.truncated: set[str] = set()
        touched = TouchedKeys(sealed.definitions())
        for piece in sealed.pieces():
            for ordinal, statement in enumerate(piece.statements(), piece.ordinal):
                touched.add(piece.sequence, [statement], ordinal)
                self._take(touched, statement)
                touched.clear()

    def _take(self, touched: TouchedKeys, statement: list[Any]) -> None:
        self.truncated.update(touched.truncated)
        is_insert = statement[0] == INSERT
        self.add(OrphanKey(label, key, is_insert and label not in self.truncated) for label, key in touched.keys)
