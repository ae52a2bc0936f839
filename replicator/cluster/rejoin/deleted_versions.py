"""Versions of deleted keys before sealed blocks, for the embedded ledger's index of requests.

Guarantee: a key's version, counted on by its next insert, is what it was. The idea: an INSERT of a document carries its
version, one more than that of the key's last deletion; so the first statement that touches a key tells what the index
held: the version before it if it inserts, nothing that matters if there was a document.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from replicator.format.definition import Definition, unpack_definition
from replicator.format.keys import key_reader
from replicator.format.statement import DEFINE, DELETE, INSERT, UPDATE, unpack_statements
from replicator.ledger.tables import version_of
from replicator.storage.journal.sealed import SealedBlocks


def undone_deletes(sealed: SealedBlocks) -> Iterator[tuple[int, bytes, int]]:
    """(relation, key image, version of its deletion before the blocks, 0 for none) of every key that they touch."""
    with contextlib.closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as db:
        db.execute("CREATE TABLE first (relation INTEGER, key BLOB, version INTEGER, PRIMARY KEY (relation, key))")
        db.execute("BEGIN")
        # Only the first touch counts: later ones tell of what the orphans themselves had done.
        db.executemany("INSERT OR IGNORE INTO first VALUES (?, ?, ?)", _touches(sealed))
        yield from db.execute("SELECT relation, key, version FROM first")


def _touches(sealed: SealedBlocks) -> Iterator[tuple[int, bytes, int]]:
    definitions = sealed.definitions()
    readers = {number: key_reader(definition) for number, definition in definitions.items() if definition.documents}
    for piece in sealed.pieces():
        for statement in unpack_statements(piece.data):
            op = statement[0]
            if op == DEFINE:
                definition: Definition = unpack_definition(statement[2])
                if definition.documents:
                    readers[statement[1]] = key_reader(definition)
            elif op == DELETE and statement[1] in readers:
                yield statement[1], statement[2], 0
            elif op in (INSERT, UPDATE) and statement[1] in readers:
                version = version_of(statement[2]) - 1 if op == INSERT else 0
                yield statement[1], readers[statement[1]](statement[2]), version
