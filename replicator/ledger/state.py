"""Looking up what the ledger holds: many keys at once in the state's SQLite file.

Guarantee: what is read is what the one writer has committed; it is used between its commits, in its thread. The state
is an ordinary SQLite replica: a table per table, its key's columns, ``document`` and ``version``.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from replicator.ledger.evaluate import StoredDocument
from replicator.ledger.tables import Key, LedgerTable
from replicator.storage.sqlite import connect, translated

_VARIABLES = 5000  # SQLite's own limit is 32,766


class LedgerState:
    """A connection for look-ups."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open it; the replica has created the file."""
        self.close()
        self._db = connect(self._path, synchronous="NORMAL", read_only=True)

    def close(self) -> None:
        """Close it."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def documents(self, table: LedgerTable, keys: Sequence[Key]) -> dict[Key, StoredDocument]:
        """What is stored under those of the keys that have a document."""
        assert self._db is not None, "the state is not open"
        documents: dict[Key, StoredDocument] = {}
        names = [_quoted(name) for name in table.key]
        size = max(1, _VARIABLES // len(names))
        # A CROSS JOIN looks each key up by the primary key; IN would scan where the key has several fields.
        same = " AND ".join(f"stored.{name} = key.column{number}" for number, name in enumerate(names, 1))
        columns = ", ".join(f"stored.{name}" for name in (*names, "document", "version"))
        with translated(self._path):
            for start in range(0, len(keys), size):
                some = keys[start : start + size]
                values = ", ".join([f"({', '.join('?' * len(names))})"] * len(some))
                rows = f"FROM (VALUES {values}) AS key CROSS JOIN {_quoted(table.name)} AS stored ON {same}"
                query = f"SELECT {columns} {rows}"
                for *key, document, version in self._db.execute(query, list(itertools.chain.from_iterable(some))):
                    documents[tuple(key)] = StoredDocument(version, document)
        return documents


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
