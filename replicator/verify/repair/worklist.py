"""What a resync has to do and has done, in one SQLite file: the keys that were touched, and where each was last.

Guarantee: what was gathered and how far, and what is done, is committed together; a resync that is killed finds all
of it again. The file is a worklist and derived from the journal: without it a resync begins anew.

    note    ``job`` (JSON: what was asked for, and the figures)
    known   a table by number; the place of its last truncate
    key     a key of a table: the place of the last statement that touched it, and whether it is done
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from replicator.storage.sqlite import connect, set_aside, transaction, translated
from replicator.verify.repair.images import Place

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS known (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE,
       sequence INTEGER, ordinal INTEGER)""",
    """CREATE TABLE IF NOT EXISTS key (known INTEGER NOT NULL, key BLOB NOT NULL, sequence INTEGER NOT NULL,
       ordinal INTEGER NOT NULL, done INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (known, key)) WITHOUT ROWID""",
)
# Made when gathering is over, and dropped before it begins: an index on places that move costs more than it gives.
_PENDING = "CREATE INDEX IF NOT EXISTS pending ON key (sequence, ordinal) WHERE done = 0"
_TOUCH = "UPDATE key SET sequence = ?3, ordinal = ?4 WHERE known = ?1 AND key = ?2 AND done = 0"
_ADD = """INSERT INTO key (known, key, sequence, ordinal) VALUES (?1, ?2, ?3, ?4)
          ON CONFLICT DO UPDATE SET sequence = excluded.sequence, ordinal = excluded.ordinal WHERE done = 0"""


class PendingKey(NamedTuple):
    """A key to be looked at: its table's label and number, and the statement that touched it last, truncates too."""

    label: str
    known: int
    key: bytes
    place: Place


class Worklist:
    """The worklist of one resync in its file. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._known: dict[str, int] = {}

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._db is not None, "open() comes first"
        return self._db

    def open(self) -> dict[str, Any] | None:
        """Open or create the file; the job that it holds."""
        self.close()
        self._db = connect(self._path, synchronous="NORMAL")
        with translated(self._path):
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._known = dict(self._db.execute("SELECT label, id FROM known"))
            row = self._db.execute("SELECT value FROM note WHERE name = 'job'").fetchone()
        return None if row is None else json.loads(row[0])

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def set_aside(self) -> Path:
        """Put a damaged file out of the way; its new name."""
        self.close()
        return set_aside(self._path)

    def begin_anew(self, job: Mapping[str, Any]) -> None:
        """Forget everything; begin this job."""
        with translated(self._path), transaction(self._open):
            for table in ("key", "known", "note"):
                self._open.execute(f"DELETE FROM {table}")
            self._open.execute("DROP INDEX IF EXISTS pending")
            self._save(job)
        self._known.clear()

    def save(self, job: Mapping[str, Any]) -> None:
        """Keep the job as it is now; durable on return."""
        with translated(self._path), transaction(self._open):
            self._save(job)

    def end(self, job: Mapping[str, Any]) -> None:
        """Keep the job as it ended; its keys are of no use any more."""
        with translated(self._path), transaction(self._open):
            self._open.execute("DELETE FROM key")
            self._save(job)

    def _save(self, job: Mapping[str, Any]) -> None:
        self._open.execute("INSERT OR REPLACE INTO note VALUES ('job', ?)", [json.dumps(job)])

    def gather(
        self,
        keys: Mapping[tuple[str, bytes], Place],
        truncated: Mapping[str, Place],
        adding: frozenset[str] | None,
        job: Mapping[str, Any],
    ) -> None:
        """Note touches. New keys are added of the tables ``adding`` (None: of all); of other tables only keys that are
        still to be done are moved to their new place."""
        with translated(self._path), transaction(self._open):
            for label, place in truncated.items():
                update = "UPDATE known SET sequence = ?, ordinal = ? WHERE id = ?"
                self._open.execute(update, [*place, self._number(label)])
            added: list[tuple[int, bytes, int, int]] = []
            moved: list[tuple[int, bytes, int, int]] = []
            for (label, key), place in keys.items():
                into = added if adding is None or label in adding else moved
                into.append((self._number(label), key, *place))
            self._open.executemany(_ADD, added)
            self._open.executemany(_TOUCH, moved)
            self._save(job)

    def add_swept(self, label: str, keys: Iterable[bytes], place: Place) -> None:
        """Add keys that the replica holds and nothing has touched since a truncate."""
        with translated(self._path), transaction(self._open):
            rows = ((self._number(label), key, *place) for key in keys)
            sql = "INSERT OR IGNORE INTO key (known, key, sequence, ordinal) VALUES (?, ?, ?, ?)"
            self._open.executemany(sql, rows)

    def _number(self, label: str) -> int:
        if label not in self._known:
            cursor = self._open.execute("INSERT INTO known (label) VALUES (?)", [label])
            assert cursor.lastrowid is not None
            self._known[label] = cursor.lastrowid
        return self._known[label]

    def truncated(self) -> dict[str, Place]:
        """The tables that were truncated, and where last."""
        with translated(self._path):
            rows = self._open.execute("SELECT label, sequence, ordinal FROM known WHERE sequence IS NOT NULL")
            return {label: (sequence, ordinal) for label, sequence, ordinal in rows}

    def count(self) -> int:
        """How many keys there are, done or not."""
        with translated(self._path):
            self._open.execute(_PENDING)
            return int(self._open.execute("SELECT count(*) FROM key").fetchone()[0])

    def pending(self, limit: int) -> list[PendingKey]:
        """Keys to be done, in the order of the journal."""
        with translated(self._path):
            self._open.execute(_PENDING)
            rows = self._open.execute(
                "SELECT known, key, sequence, ordinal FROM key WHERE done = 0 ORDER BY sequence, ordinal LIMIT ?",
                [limit],
            ).fetchall()
        labels, truncated = {number: label for label, number in self._known.items()}, self.truncated()
        return [
            PendingKey(labels[known], known, key, max((sequence, ordinal), truncated.get(labels[known], (0, 0))))
            for known, key, sequence, ordinal in rows
        ]

    def done(self, keys: Iterable[PendingKey], job: Mapping[str, Any]) -> None:
        """Note that these are done, together with the job's figures."""
        with translated(self._path), transaction(self._open):
            sql = "UPDATE key SET done = 1 WHERE known = ? AND key = ?"
            self._open.executemany(sql, ((pending.known, pending.key) for pending in keys))
            self._save(job)
