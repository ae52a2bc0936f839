"""The journal: a strand's blocks, hash-chained and durable, in one SQLite file.

Guarantee: when ``append`` or ``accept`` returns, the blocks survive power loss; a block is there whole or not at all;
the chain has no gap. One call is one group commit (one fsync), so callers batch. The chain's end is read from the last
page, never kept beside it: there is nothing that could disagree.

Blocks are stored in pages of contiguous frames exactly as the feed sends them. A large block's parts are stored
before its page; until the page is there they belong to nobody and are dropped when the source starts again.

All methods block; any thread may call. Non-goals: choosing what to keep (retention), serving (``feed``).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sqlite_utils import Database

from replicator.block import BODY_LIMIT_BYTES, HAS_DEFINITIONS, Block, Draft, Part, check_chain, seal, seal_small
from replicator.definition import Definition, unpack_definition
from replicator.errors import Corrupt, Halted
from replicator.journal.schema import migrations
from replicator.position import Position, genesis, parse_position
from replicator.sqlite import connect, look, transaction, translated
from replicator.statement import DEFINE, unpack_statements
from replicator.wire import pack_blocks, unpack_page

PAGE_BYTES = 256 * 1024
PAGE_BLOCKS = 2000
READ_BYTES = 1 << 20  # of pages, before it is looked whether there are enough blocks
RECENT_BYTES = 16 << 20
RECENT_OVERHEAD_BYTES = 1000  # what CPython keeps for a block beside its bytes
_BASE_NOTE = "base:"  # where a journal begins that does not begin at the strand's first block


class Page(NamedTuple):
    """Blocks ``first`` to ``last`` as frames, ready to be sent; a large one's parts must be sent before it."""

    first: int
    last: int
    large: bool
    data: bytes


class _Arriving:
    """A large transaction whose parts are being stored: what its header will say of its body."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.body_bytes = 0
        self.parts = 0


class _Recent:
    """The last blocks written, as they were proven: who keeps up with the journal need not read and prove them
    again."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, blocks: Sequence[Block]) -> None:
        """Blocks that are durable now, right behind those added before."""
        with self._lock:
            self._blocks.extend(blocks)
            self._bytes += sum(map(_size, blocks))
            while self._bytes > RECENT_BYTES:
                self._bytes -= _size(self._blocks.popleft())

    def behind(self, after: int, limit_bytes: int, limit_blocks: int) -> list[Block]:
        """The blocks behind the sequence ``after``; none if the first of them is not here any more."""
        with self._lock:
            if not self._blocks:
                return []
            skipped = after + 1 - self._blocks[0].header.sequence
            if not 0 <= skipped < len(self._blocks):
                return []
            found = []
            for block in itertools.islice(self._blocks, skipped, min(skipped + limit_blocks, len(self._blocks))):
                found.append(block)
                limit_bytes -= _size(block)
                if limit_bytes <= 0:
                    break
            return found


def _size(block: Block) -> int:
    """About the memory that a block takes."""
    return RECENT_OVERHEAD_BYTES + len(block.encoded) + (len(block.body) if block.body else 0)


class Journal:
    """One region's journal, for all its strands. ``traceless``: only to read a file that must stay as it is."""

    def __init__(self, path: Path, *, traceless: bool = False) -> None:
        self.path = path
        self._traceless = traceless
        self._writing = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._heads: dict[str, tuple[Position, int]] = {}  # the last block's position, and high_at
        self._arriving: dict[str, _Arriving] = {}
        self._recent: dict[str, _Recent] = {}

    def open(self) -> None:
        """Open or create the file. Raises Unavailable or Halted."""
        self._writer = connect(self.path, synchronous="FULL")
        with translated(self.path):
            migrations.apply(Database(self._writer))

    def close(self) -> None:
        """Close every connection."""
        with self._writing:
            for connection in [*self._readers, *([self._writer] if self._writer else [])]:
                connection.close()
            self._readers.clear()
            self._writer = None
            self._heads.clear()
            self._recent.clear()

    # -- the end of the chain

    def head(self, strand: str) -> Position:
        """The last block's position; genesis, or where the journal was begun, if there is none."""
        return self._head(strand)[0]

    def _head(self, strand: str) -> tuple[Position, int]:
        known = self._heads.get(strand)
        if known is None:
            known = self._heads[strand] = self._read_head(strand)
        return known

    def _read_head(self, strand: str) -> tuple[Position, int]:
        with self._reader() as db:
            row = db.execute(
                "SELECT data, high_at FROM page WHERE strand = ? ORDER BY last DESC LIMIT 1", (strand,)
            ).fetchone()
        if row is None:
            return self._base(strand), 0
        *_, last = unpack_page(row[0])
        return last.position, row[1]

    def _base(self, strand: str) -> Position:
        text = self.notes().get(_BASE_NOTE + strand)
        return parse_position(text) if text else genesis(strand)

    def begin_at(self, base: Position, definitions: dict[int, bytes]) -> None:
        """Begin an empty journal behind ``base``, not at the first block; ``definitions`` are those in force there."""
        with self._transaction() as db:
            if self._head(base.strand)[0].sequence:
                raise Halted("journal_not_empty", "it holds blocks and cannot begin elsewhere", place=str(self.path))
            db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (_BASE_NOTE + base.strand, str(base)))
            db.executemany(
                "INSERT OR REPLACE INTO definition VALUES (?, ?, ?, ?)",
                [(base.strand, relation, base.sequence, data) for relation, data in definitions.items()],
            )
        self._heads[base.strand] = (base, 0)

    # -- writing

    def append(self, strand: str, items: Sequence[Part | Draft], epoch: int) -> list[Block]:
        """Seal drafts behind the head and store them; parts are stored for the draft that follows them.

        Durable on return. Raises Unavailable or Halted; then nothing of this call was stored, and what was arriving
        must be sent again from its first part (``discard_arriving``).
        """
        try:
            with self._transaction() as db:
                blocks = self._seal_all(db, strand, items, epoch)
                self._insert_pages(db, strand, blocks)
        except BaseException:
            self._arriving.pop(strand, None)
            raise
        self._advance(strand, blocks)
        return blocks

    def accept(self, strand: str, blocks: Sequence[Block]) -> Position:
        """Store blocks that another region sealed. Durable on return; gives the new head.

        Raises Corrupt if one does not link to the one before it or a large one's staged parts are not its body; then
        nothing was stored, and such parts are dropped.
        """
        check_chain(self.head(strand), blocks)
        for block in blocks:
            if block.body is None:
                self._prove_parts(strand, block)
        try:
            with self._transaction() as db:
                self._insert_pages(db, strand, blocks)
        except Corrupt as error:
            sequences = f"{blocks[0].header.sequence} to {blocks[-1].header.sequence}"
            raise error.within(f"strand {strand}, among sequences {sequences}") from error
        self._advance(strand, blocks)
        return self.head(strand)

    def stage(self, strand: str, parts: Sequence[tuple[int, int, Part]]) -> None:
        """Store parts (sequence, number, part) of a large block that has yet to be accepted. Durable on return.

        Parts of blocks that are here already are left alone: those are proven.
        """
        head = self.head(strand).sequence
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?)",
                [
                    (strand, sequence, number, part.statements, part.data)
                    for sequence, number, part in parts
                    if sequence > head
                ],
            )

    def discard_arriving(self, strand: str) -> None:
        """Forget the parts of a transaction that did not arrive whole."""
        self._arriving.pop(strand, None)
        with self._transaction() as db:
            db.execute("DELETE FROM part WHERE strand = ? AND sequence > ?", (strand, self.head(strand).sequence))

    def _seal_all(self, db: sqlite3.Connection, strand: str, items: Sequence[Part | Draft], epoch: int) -> list[Block]:
        blocks: list[Block] = []
        small: list[Draft] = []
        head = self.head(strand)
        for item in items:
            if isinstance(item, Draft) and item.body is not None:
                assert strand not in self._arriving, "a draft with a body after parts of another transaction"
                small.append(item)
                continue
            blocks += seal_small(small, blocks[-1].position if blocks else head, epoch)
            small.clear()
            previous = blocks[-1].position if blocks else head
            if isinstance(item, Part):
                self._store_part(db, strand, previous.sequence + 1, item)
            else:
                arrived = self._arriving.pop(strand, None) or _Arriving()
                blocks.append(seal(item, previous, epoch, arrived.body_bytes, arrived.digest.digest()))
        return blocks + seal_small(small, blocks[-1].position if blocks else head, epoch)

    def _store_part(self, db: sqlite3.Connection, strand: str, sequence: int, part: Part) -> None:
        arriving = self._arriving.setdefault(strand, _Arriving())
        row = (strand, sequence, arriving.parts, part.statements, part.data)
        db.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?)", row)
        arriving.digest.update(part.data)
        arriving.body_bytes += len(part.data)
        arriving.parts += 1

    def _insert_pages(self, db: sqlite3.Connection, strand: str, blocks: Sequence[Block]) -> None:
        high_at = self._head(strand)[1]
        rows = []
        for group in _paginate(blocks):
            high_at = max(high_at, *(block.header.committed_at for block in group))
            first, last = group[0].header.sequence, group[-1].header.sequence
            large = group[0].body is None
            rows.append((strand, last, first, high_at, large, b"".join(pack_blocks(group))))
        db.executemany("INSERT INTO page VALUES (?, ?, ?, ?, ?, ?)", rows)
        for block in blocks:
            if block.header.flags & HAS_DEFINITIONS:
                self._insert_definitions(db, strand, block)

    def _insert_definitions(self, db: sqlite3.Connection, strand: str, block: Block) -> None:
        sequence = block.header.sequence
        for body in self._bodies(db, strand, block):
            for statement in unpack_statements(body):
                if statement[0] == DEFINE:
                    self._insert_definition(db, strand, sequence, statement[1], statement[2])

    def _insert_definition(
        self, db: sqlite3.Connection, strand: str, sequence: int, relation: int, data: bytes
    ) -> None:
        """Rows of any age are read by their relation's definition, so it must never change."""
        unpack_definition(data)  # refused here rather than by every later reader
        known = db.execute(
            "SELECT data FROM definition WHERE strand = ? AND relation = ?", (strand, relation)
        ).fetchone()
        if known is not None and known[0] != data:
            place = f"strand {strand}, sequence {sequence}"
            raise Corrupt("defined_twice", f"relation {relation} has another definition already", place=place)
        db.execute("INSERT OR IGNORE INTO definition VALUES (?, ?, ?, ?)", (strand, relation, sequence, data))

    def _advance(self, strand: str, blocks: Sequence[Block]) -> None:
        if blocks:
            self._recent.setdefault(strand, _Recent()).add(blocks)
            high_at = max(self._head(strand)[1], *(block.header.committed_at for block in blocks))
            self._heads[strand] = (blocks[-1].position, high_at)

    def _prove_parts(self, strand: str, block: Block) -> None:
        header = block.header
        digest, size, statements = hashlib.sha256(), 0, 0
        for part in self.parts(strand, header.sequence):
            digest.update(part.data)
            size += len(part.data)
            statements += part.statements
        if (digest.digest(), size, statements) != (header.body_hash, header.body_bytes, header.statements):
            with self._transaction() as db:
                db.execute("DELETE FROM part WHERE strand = ? AND sequence = ?", (strand, header.sequence))
            raise Corrupt(
                "body_mismatch",
                "the parts that arrived are not the body that the header names; they were dropped",
                place=f"strand {strand}, sequence {header.sequence}",
            )

    # -- reading

    def pages(self, strand: str, after: int, limit_bytes: int) -> list[Page]:
        """Pages with blocks behind the sequence ``after``, one at the least; the first may begin earlier."""
        pages: list[Page] = []
        size = 0
        with self._reader() as db:
            rows = db.execute(
                "SELECT first, last, large, data FROM page WHERE strand = ? AND last > ? ORDER BY last", (strand, after)
            )
            for first, last, large, data in rows:
                pages.append(Page(first, last, bool(large), data))
                size += len(data)
                if size >= limit_bytes:
                    break
        return pages

    def blocks(self, strand: str, after: int, limit_bytes: int, limit_blocks: int = 2**63 - 1) -> list[Block]:
        """The blocks behind the sequence ``after``, proven against their hashes: about ``limit_bytes`` of them, at most
        ``limit_blocks``, at least one if there is any."""
        recent = self._recent.get(strand)
        if recent is not None and (found := recent.behind(after, limit_bytes, limit_blocks)):
            return found
        found = []
        while limit_bytes > 0 and len(found) < limit_blocks:
            pages = self.pages(strand, after, min(limit_bytes, READ_BYTES))
            if not pages:
                break
            for page in pages:
                found += [block for block in unpack_page(page.data) if block.header.sequence > after]
                limit_bytes -= len(page.data)
                after = page.last
                if len(found) >= limit_blocks:
                    break
        return found[:limit_blocks]

    def block(self, strand: str, sequence: int) -> Block | None:
        """One block, if it is here."""
        return next((block for block in self.around(strand, sequence) if block.header.sequence == sequence), None)

    def around(self, strand: str, sequence: int) -> list[Block]:
        """The blocks that were stored together with this one, itself among them; none if it is not here."""
        return [block for page in self.pages(strand, sequence - 1, 1) for block in unpack_page(page.data)]

    def parts(self, strand: str, sequence: int) -> Iterator[Part]:
        """The pieces of a large block, in order, one at a time."""
        number = 0
        while True:
            with self._reader() as db:
                row = db.execute(
                    "SELECT statements, data FROM part WHERE strand = ? AND sequence = ? AND number = ?",
                    (strand, sequence, number),
                ).fetchone()
            if row is None:
                return
            yield Part(*row)
            number += 1

    def position_at(self, strand: str, sequence: int) -> Position | None:
        """This chain's position at a sequence; None where it has none."""
        base = self._base(strand)
        if sequence == base.sequence:
            return base
        block = self.block(strand, sequence)
        return block.position if block else None

    def base(self, strand: str) -> Position:
        """The position that this journal begins behind."""
        return self._base(strand)

    def sequence_before(self, strand: str, time: int) -> int:
        """The sequence behind which reading must begin to get every block committed at or after ``time`` (µs).

        By the index over ``high_at``: everything before the first page that reaches ``time`` was committed earlier.
        """
        with self._reader() as db:
            row = db.execute(
                "SELECT data FROM page WHERE strand = ? AND high_at >= ? ORDER BY high_at, last LIMIT 1", (strand, time)
            ).fetchone()
        if row is None:
            return self.head(strand).sequence
        for block in unpack_page(row[0]):
            if block.header.committed_at >= time:
                return block.header.sequence - 1
        raise AssertionError("high_at names a page without a block of its time")

    def packed_definitions(self, strand: str, at: int | None = None) -> dict[int, bytes]:
        """The definitions that blocks up to the sequence ``at`` (all, if None) brought, by relation."""
        with self._reader() as db:
            rows = db.execute(
                "SELECT relation, data FROM definition WHERE strand = ? AND sequence <= ? ORDER BY relation",
                (strand, 2**63 - 1 if at is None else at),
            ).fetchall()
        return dict(rows)

    def definitions(self, strand: str, at: int | None = None) -> dict[int, Definition]:
        """``packed_definitions``, unpacked."""
        return {relation: unpack_definition(data) for relation, data in self.packed_definitions(strand, at).items()}

    def strands(self) -> list[str]:
        """The strands that have blocks here."""
        with self._reader() as db:
            return [row[0] for row in db.execute("SELECT DISTINCT strand FROM page ORDER BY strand")]

    # -- notes

    def notes(self) -> dict[str, str]:
        """Everything noted."""
        with self._reader() as db:
            return dict(db.execute("SELECT key, value FROM note").fetchall())

    def set_note(self, key: str, value: str) -> None:
        """Note a fact; durable on return."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (key, value))

    # -- connections

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, translated(self.path):
            assert self._writer is not None, "the journal is not open"
            with transaction(self._writer):
                yield self._writer

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path):
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._new_reader()
            try:
                yield connection
            finally:
                self._readers.append(connection)

    def _new_reader(self) -> sqlite3.Connection:
        return look(self.path) if self._traceless else connect(self.path, synchronous="FULL", read_only=True)

    def _bodies(self, db: sqlite3.Connection, strand: str, block: Block) -> Iterator[bytes]:
        """A block's body in pieces, seen through ``db``, which may hold parts that are not committed yet."""
        if block.body is not None:
            yield block.body
            return
        number = 0
        query = "SELECT data FROM part WHERE strand = ? AND sequence = ? AND number = ?"
        while row := db.execute(query, (strand, block.header.sequence, number)).fetchone():
            yield row[0]
            number += 1


def _paginate(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Blocks in groups that make a page each; a large block stands alone."""
    group: list[Block] = []
    size = 0
    for block in blocks:
        large = block.body is None
        if group and (large or size >= PAGE_BYTES or len(group) >= PAGE_BLOCKS):
            yield group
            group, size = [], 0
        if large:
            yield [block]
        else:
            group.append(block)
            size += len(block.encoded) + len(block.body or b"")
    if group:
        yield group


assert PAGE_BYTES <= BODY_LIMIT_BYTES
