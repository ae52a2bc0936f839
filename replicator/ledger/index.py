"""What the ledger must remember beside its state: requests by idempotency key, and the versions of deleted keys.

Guarantee: everything here comes from the journal's blocks, where the writer put it as the block's first statement, a
MESSAGE (``RequestNote``). So it survives failover: a promoted region builds this index from its own journal. The index
keeps its position with its rows and follows the chain; if it stands on another chain it is built anew.

Idempotency keys are forgotten after the retention; versions of deleted keys are kept.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgpack

from replicator.errors import Corrupt
from replicator.format.block import Block, BlockPart
from replicator.format.position import Position
from replicator.format.statement import DELETE, MESSAGE, pack_message, unpack_statements
from replicator.ledger.tables import LedgerTable
from replicator.storage.sqlite import connect, transaction, translated

PREFIX = "ledger.request"
STEP_BYTES = 4 << 20
_VARIABLES = 5000

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS request (id TEXT PRIMARY KEY, digest BLOB NOT NULL, sequence INTEGER NOT NULL,
       committed_at INTEGER NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS request_by_time ON request (committed_at)",
    """CREATE TABLE IF NOT EXISTS deleted (relation INTEGER NOT NULL, key BLOB NOT NULL, version INTEGER NOT NULL,
       PRIMARY KEY (relation, key)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS indexed (strand TEXT PRIMARY KEY, sequence INTEGER NOT NULL, hash BLOB NOT NULL)",
)


class RequestNote(NamedTuple):
    """What a block says of the request that it is: its id and digest (empty without one), and the versions of its
    deletes, in their order."""

    id: str
    digest: bytes
    deleted: Sequence[int]


class KnownRequest(NamedTuple):
    """A request that was applied."""

    digest: bytes
    sequence: int


class IndexedJournal(Protocol):
    """What is read of the journal."""

    def blocks(self, strand: str, after: int, limit_bytes: int) -> list[Block]: ...
    def parts(self, strand: str, sequence: int) -> Iterator[BlockPart]: ...
    def position_at(self, strand: str, sequence: int) -> Position | None: ...
    def base(self, strand: str) -> Position: ...


Undone = Iterable[tuple[int, bytes, int]]  # relation, key image, and the version in force before, 0 for none


def cut_back(path: Path, position: Position, undone: Undone) -> None:
    """Bring an index file back to ``position``: requests behind it were never made, and deleted keys have the versions
    given. Nothing where there is no file, or where it is not beyond. Durable on return."""
    if not path.exists():
        return
    strand, _, sequence, digest = position
    with translated(path), contextlib.closing(connect(path, synchronous="FULL")) as db, transaction(db):
        for statement in SCHEMA:
            db.execute(statement)
        row = db.execute("SELECT sequence FROM indexed WHERE strand = ?", (strand,)).fetchone()
        if row is None or row[0] <= sequence:
            return
        db.execute("DELETE FROM request WHERE sequence > ?", (sequence,))
        for relation, key, version in undone:
            db.execute("DELETE FROM deleted WHERE relation = ? AND key = ?", (relation, key))
            if version:
                db.execute("INSERT INTO deleted VALUES (?, ?, ?)", (relation, key, version))
        db.execute("UPDATE indexed SET sequence = ?, hash = ? WHERE strand = ?", (sequence, digest, strand))


def pack_note(note: RequestNote) -> bytes:
    """The note as a statement."""
    return pack_message(PREFIX, msgpack.packb(note))


def read_note(statement: list[Any]) -> RequestNote | None:
    """The note that a block's first statement is, if it is one. Raises Corrupt."""
    if statement[0] != MESSAGE or statement[1] != PREFIX:
        return None
    match msgpack.unpackb(statement[2]):
        case [str() as id_, bytes() as digest, list() as deleted] if all(type(version) is int for version in deleted):
            return RequestNote(id_, digest, deleted)
        case _:
            raise Corrupt("bad_note", "a block's note on its request cannot be read")


def statements_of(journal: IndexedJournal, block: Block) -> Iterator[list[Any]]:
    """A block's statements, however it is stored; a part at a time."""
    if block.body is not None:
        yield from unpack_statements(block.body)
    else:
        for part in journal.parts(block.header.strand, block.header.sequence):
            yield from unpack_statements(part.data)


class RequestIndex:
    """The index of one strand, in a file of its own. For the one writer's thread."""

    def __init__(self, path: Path, strand: str) -> None:
        self._path = path
        self._strand = strand
        self._db: sqlite3.Connection | None = None
        self.has_deleted = False
        self._after: int | None = None  # where it stands, once that was compared with the journal

    def open(self) -> None:
        """Open or create the file."""
        self.close()
        with self._translated():
            self._db = connect(self._path, synchronous="NORMAL")  # what a loss of power takes is in the journal
            for statement in SCHEMA:
                self._db.execute(statement)
            self.has_deleted = self._db.execute("SELECT 1 FROM deleted LIMIT 1").fetchone() is not None

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        self._after = None

    def follow(self, journal: IndexedJournal) -> None:
        """Take in what the journal has beyond the index."""
        if self._after is None:
            self._after = self._position(journal)
        while blocks := journal.blocks(self._strand, self._after, STEP_BYTES):
            with self._transaction() as db:
                for block in blocks:
                    self._add(db, journal, block)
                last = blocks[-1].position
                row = (self._strand, last.sequence, last.hash)
                db.execute("INSERT OR REPLACE INTO indexed VALUES (?, ?, ?)", row)
            self._after = last.sequence

    def request(self, id_: str) -> KnownRequest | None:
        """The request that was applied under an idempotency key."""
        with self._translated():
            row = self._reading().execute("SELECT digest, sequence FROM request WHERE id = ?", (id_,)).fetchone()
        return KnownRequest(*row) if row else None

    def deleted(self, table: LedgerTable, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The last versions of those of the key images that were deleted."""
        versions: dict[bytes, int] = {}
        if not self.has_deleted:
            return versions
        with self._translated():
            for start in range(0, len(keys), _VARIABLES):
                some = keys[start : start + _VARIABLES]
                query = f"SELECT key, version FROM deleted WHERE relation = ? AND key IN ({', '.join('?' * len(some))})"
                versions.update(self._reading().execute(query, (table.relation, *some)))
        return versions

    def forget(self, before: int) -> None:
        """Forget the requests that were committed before a time (µs)."""
        with self._transaction() as db:
            db.execute("DELETE FROM request WHERE committed_at < ?", (before,))

    def _position(self, journal: IndexedJournal) -> int:
        query = "SELECT sequence, hash FROM indexed WHERE strand = ?"
        with self._translated():
            row = self._reading().execute(query, (self._strand,)).fetchone()
        base = journal.base(self._strand).sequence
        if row is None:
            return base
        here = journal.position_at(self._strand, row[0])
        if here is not None and here.hash == row[1]:
            return int(row[0])
        with self._transaction() as db:  # of another chain: what it says is not this ledger's
            for table in ("request", "deleted", "indexed"):
                db.execute(f"DELETE FROM {table}")
        self.has_deleted = False
        return base

    def _add(self, db: sqlite3.Connection, journal: IndexedJournal, block: Block) -> None:
        statements = statements_of(journal, block)
        note = next((read_note(statement) for statement in statements), None)  # of the first statement only
        if note is None:
            return
        header = block.header
        if note.id:
            row = (note.id, note.digest, header.sequence, header.committed_at)
            db.execute("INSERT OR REPLACE INTO request VALUES (?, ?, ?, ?)", row)
        if note.deleted:
            keys = ((statement[1], statement[2]) for statement in statements if statement[0] == DELETE)
            self._add_deleted(db, keys, note)

    def _add_deleted(self, db: sqlite3.Connection, keys: Iterable[tuple[int, bytes]], note: RequestNote) -> None:
        self.has_deleted = True
        # The note tells versions, the statements behind it keys: both in the order of the deletes.
        rows = ((relation, key, version) for (relation, key), version in zip(keys, note.deleted, strict=True))
        try:
            db.executemany("INSERT OR REPLACE INTO deleted VALUES (?, ?, ?)", rows)
        except ValueError as error:
            raise Corrupt("bad_note", "a block's note does not fit its deletes") from error

    def _reading(self) -> sqlite3.Connection:
        assert self._db is not None, "the index is not open"
        return self._db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated(), transaction(self._reading()):
            yield self._reading()

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return translated(self._path, "stop the sidecar and remove it: it is built again from the journal")
