"""What the ledger must remember beside its state: requests by idempotency key, and the versions of deleted keys.

Guarantee: everything here comes from the journal's blocks, where the writer put it as the block's first statement, a
MESSAGE (``RequestNote``; of a request that was refused ``RefusalNote``, which is all that its block holds). So it
survives failover: a promoted region builds this index from its own journal. The index keeps its position with its rows
and follows the chain; if it stands on another chain it is built anew.

Idempotency keys are forgotten after the retention, whatever their outcome; versions of deleted keys are kept.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgpack

from replicator.errors import Corrupt, Rejected
from replicator.format.block import Block, BlockPart
from replicator.format.position import MAX_SEQUENCE, Position
from replicator.format.statement import DELETE, MESSAGE, pack_message, unpack_statements
from replicator.ledger.tables import LedgerTable
from replicator.storage.sqlite import connect, transaction, translated

PREFIX = "ledger.request"
REFUSAL = "ledger.refusal"
STEP_BYTES = 4 << 20
_VARIABLES = 5000
_OUTCOMES = ("request", "refusal")  # the tables that tell what became of a request

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS request (id TEXT PRIMARY KEY, digest BLOB NOT NULL, sequence INTEGER NOT NULL,
       committed_at INTEGER NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS request_by_time ON request (committed_at)",
    """CREATE TABLE IF NOT EXISTS refusal (id TEXT PRIMARY KEY, digest BLOB NOT NULL, sequence INTEGER NOT NULL,
       committed_at INTEGER NOT NULL, answer BLOB NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS refusal_by_time ON refusal (committed_at)",
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


class RepeatedRefusal(Rejected):
    """A refusal that an earlier request of the same idempotency key got already."""


class RefusalNote(NamedTuple):
    """What the block of a refused request says: its id and digest, and the answer that it got."""

    id: str
    digest: bytes
    status: int
    reason: str
    message: str
    place: str
    cure: str

    def again(self) -> RepeatedRefusal:
        """The refusal as it was raised, for another request of the same key."""
        return RepeatedRefusal(self.reason, self.message, status=self.status, place=self.place, cure=self.cure)


class KnownRequest(NamedTuple):
    """A request that has its outcome: the sequence of its block, and the answer of one that was refused."""

    digest: bytes
    sequence: int
    committed_at: int
    refusal: RefusalNote | None


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
        for table in _OUTCOMES:
            db.execute(f"DELETE FROM {table} WHERE sequence > ?", (sequence,))
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


def pack_refusal(note: RefusalNote) -> bytes:
    """The refusal as a statement."""
    return pack_message(REFUSAL, msgpack.packb(note))


def read_refusal(statement: list[Any]) -> RefusalNote | None:
    """The refusal that a block's first statement is, if it is one. Raises Corrupt."""
    if statement[0] != MESSAGE or statement[1] != REFUSAL:
        return None
    return _refusal(statement[2])


def _refusal(content: bytes) -> RefusalNote:
    match msgpack.unpackb(content):
        case [str(), bytes(), int(), str(), str(), str(), str()] as fields:
            return RefusalNote(*fields)
        case _:
            raise Corrupt("bad_note", "a block's note on a refused request cannot be read")


def statements_of(journal: IndexedJournal, block: Block) -> Iterator[list[Any]]:
    """A block's statements, however it is stored; a part at a time."""
    if block.body is not None:
        yield from unpack_statements(block.body)
    else:
        for part in journal.parts(block.header.strand, block.header.sequence):
            yield from unpack_statements(part.data)


def known_request(db: sqlite3.Connection, id_: str) -> KnownRequest | None:
    """What an index file says of an idempotency key."""
    row = db.execute("SELECT digest, sequence, committed_at FROM request WHERE id = ?", (id_,)).fetchone()
    if row is not None:
        return KnownRequest(row[0], row[1], row[2], None)
    row = db.execute("SELECT digest, sequence, committed_at, answer FROM refusal WHERE id = ?", (id_,)).fetchone()
    return None if row is None else KnownRequest(row[0], row[1], row[2], _refusal(row[3]))


class RequestIndex:
    """The index of one strand, in a file of its own. For the one writer's thread."""

    def __init__(self, path: Path, strand: str) -> None:
        self._path = path
        self._strand = strand
        self._db: sqlite3.Connection | None = None
        self.has_deleted = False
        self._after: int | None = None  # where it stands, once that was compared with the journal

    def open(self, *, read_only: bool = False) -> None:
        """Open or create the file."""
        self.close()
        with self._translated():
            # What a loss of power takes is in the journal.
            self._db = connect(self._path, synchronous="NORMAL", read_only=read_only)
            for statement in () if read_only else SCHEMA:
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
        while self.step(journal):
            pass

    def step(self, journal: IndexedJournal, until: int = MAX_SEQUENCE) -> bool:
        """Take in some of what the journal has beyond the index, up to the sequence ``until``; whether there was
        anything."""
        if self._after is None:
            self._after = self._position(journal)
        blocks = journal.blocks(self._strand, self._after, STEP_BYTES)
        blocks = [block for block in blocks if block.header.sequence <= until]
        if not blocks:
            return False
        with self._transaction() as db:
            for block in blocks:
                self._add(db, journal, block)
            last = blocks[-1].position
            row = (self._strand, last.sequence, last.hash)
            db.execute("INSERT OR REPLACE INTO indexed VALUES (?, ?, ?)", row)
        self._after = last.sequence
        return True

    def indexed(self, journal: IndexedJournal) -> int:
        """How far the file is, whoever writes it; where the journal begins if it is of another chain, or empty."""
        with self._translated():
            row = self._row()
        return row[0] if row is not None and self._is_of(journal, row) else journal.base(self._strand).sequence

    def request(self, id_: str) -> KnownRequest | None:
        """The request that was applied, or refused, under an idempotency key."""
        with self._translated():
            return known_request(self._reading(), id_)

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

    def forget(self, before: int, until: int = MAX_SEQUENCE) -> None:
        """Forget the requests that were committed or refused before a time (µs), up to the sequence ``until``."""
        with self._transaction() as db:
            for table in _OUTCOMES:
                db.execute(f"DELETE FROM {table} WHERE committed_at < ? AND sequence <= ?", (before, until))

    def _position(self, journal: IndexedJournal) -> int:
        with self._translated():
            row = self._row()
        base = journal.base(self._strand).sequence
        if row is None:
            return base
        if self._is_of(journal, row):
            return row[0]
        with self._transaction() as db:  # of another chain: what it says is not this ledger's
            for table in (*_OUTCOMES, "deleted", "indexed"):
                db.execute(f"DELETE FROM {table}")
        self.has_deleted = False
        return base

    def _row(self) -> tuple[int, bytes] | None:
        query = "SELECT sequence, hash FROM indexed WHERE strand = ?"
        row = self._reading().execute(query, (self._strand,)).fetchone()
        return None if row is None else (int(row[0]), row[1])

    def _is_of(self, journal: IndexedJournal, row: tuple[int, bytes]) -> bool:
        here = journal.position_at(self._strand, row[0])
        return here is not None and here.hash == row[1]

    def _add(self, db: sqlite3.Connection, journal: IndexedJournal, block: Block) -> None:
        statements = statements_of(journal, block)
        first = next(statements, None)
        if first is None:
            return
        header = block.header
        if (refusal := read_refusal(first)) is not None:
            refused = (refusal.id, refusal.digest, header.sequence, header.committed_at, first[2])
            db.execute("INSERT OR REPLACE INTO refusal VALUES (?, ?, ?, ?, ?)", refused)
            return
        note = read_note(first)
        if note is None:
            return
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
