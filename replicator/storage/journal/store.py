"""The journal: a strand's blocks, hash-chained and durable, in one SQLite file.

Guarantee: when ``append`` or ``accept`` returns, the blocks survive power loss; a block is there whole or not at all;
the chain has no gap. One call is one group commit (one fsync), so callers batch. The chain's end is read from the last
page, never kept beside it: there is nothing that could disagree.

Blocks are stored in pages of contiguous frames exactly as the feed sends them. A large block's parts are stored
before its page; until the page is there they belong to nobody and are dropped when the source starts again.

All methods block; any thread may call. Non-goals: choosing what to keep (``retention``), serving (``feed``).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from sqlite_utils import Database

from replicator.errors import Corrupt, Halted
from replicator.format.block import (
    HAS_DEFINITIONS,
    Block,
    BlockPart,
    Draft,
    LargeBody,
    check_chain,
    seal,
    seal_small,
)
from replicator.format.definition import unpack_definition
from replicator.format.position import Position
from replicator.format.statement import DEFINE, unpack_statements
from replicator.format.wire import pack_blocks
from replicator.storage.journal.reading import BASE_NOTE, HIGH_NOTE, JournalReader, prove_parts
from replicator.storage.journal.recent import RecentBlocks
from replicator.storage.journal.schema import migrations
from replicator.storage.sqlite import connect, transaction, translated

PAGE_BYTES = 256 * 1024
PAGE_BLOCKS = 2000


class Journal(JournalReader):
    """One region's journal, for all its strands. ``open`` is for who writes; to read, it need not be called."""

    def __init__(self, path: Path, *, traceless: bool = False) -> None:
        super().__init__(path, traceless=traceless)
        self._writing = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._arriving: dict[str, LargeBody] = {}  # of transactions whose last part has yet to come

    def open(self) -> None:
        """Open or create the file. Raises Unavailable or Halted."""
        self._writer = connect(self.path, synchronous="FULL")
        with translated(self.path):
            migrations.apply(Database(self._writer))

    def close(self) -> None:
        """Close every connection."""
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            super().close()

    # -- writing

    def begin_at(self, base: Position, definitions: dict[int, bytes], high_at: int | None = None) -> None:
        """Begin an empty journal behind ``base``, not at the first block; ``definitions`` are those in force there, in
        the order in which they came. Nothing up to there was committed after ``high_at`` (µs), if that is known."""
        with self._transaction() as db:
            if self._head(base.strand)[0].sequence:
                raise Halted("journal_not_empty", "it holds blocks and cannot begin elsewhere", place=str(self.path))
            db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (BASE_NOTE + base.strand, str(base)))
            if high_at is not None:
                db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (HIGH_NOTE + base.strand, str(high_at)))
            db.executemany(
                "INSERT OR REPLACE INTO definition VALUES (?, ?, ?, ?)",
                [(base.strand, relation, base.sequence, data) for relation, data in definitions.items()],
            )
        # Its clock may have jumped back since: pages go on from the latest time, which finds a start time by index.
        self._heads[base.strand] = (base, high_at or 0)

    def append(self, strand: str, items: Sequence[BlockPart | Draft], epoch: int) -> list[Block]:
        """Seal drafts behind the head and store them; parts are stored for the draft that follows them.

        Durable on return. Raises Unavailable or Halted; then nothing of this call was stored, and what was arriving
        must be sent again from its first part (``discard_arriving``).
        """
        try:
            with self._transaction() as db:
                blocks = self._seal_all(db, strand, items, epoch)
                high_at = self._insert_pages(db, strand, blocks, pack_blocks(blocks))
        except BaseException:
            self._arriving.pop(strand, None)  # it counts parts that were rolled back
            raise
        self._advance(strand, blocks, high_at)  # only now: a head that is shown is a head that is durable
        return blocks

    def accept(self, strand: str, blocks: Sequence[Block], frames: Sequence[bytes] = ()) -> Position:
        """Store blocks that another region sealed; ``frames`` are theirs, if the caller has packed them already.
        Durable on return; gives the new head.

        Raises Corrupt if one does not link to the one before it or a large one's staged parts are not its body; then
        nothing was stored, and such parts are dropped.
        """
        check_chain(self.head(strand), blocks)
        for block in blocks:  # before the transaction: reading a large block takes time, and appends wait for it
            if block.body is None:
                self._prove_parts(strand, block)
        try:
            with self._transaction() as db:
                high_at = self._insert_pages(db, strand, blocks, frames or pack_blocks(blocks))
        except Corrupt as error:
            sequences = f"{blocks[0].header.sequence} to {blocks[-1].header.sequence}"
            raise error.within(f"strand {strand}, among sequences {sequences}") from error
        self._advance(strand, blocks, high_at)
        return self.head(strand)

    def stage(self, strand: str, parts: Sequence[tuple[int, int, BlockPart]]) -> None:
        """Store parts (sequence, number, part) of a large block that has yet to be accepted. Durable on return.

        Parts of blocks that are here already are left alone: those are proven.
        """
        head = self.head(strand).sequence
        with self._transaction() as db:  # REPLACE: a feed that was opened again sends a block's parts once more
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

    def _seal_all(
        self, db: sqlite3.Connection, strand: str, items: Sequence[BlockPart | Draft], epoch: int
    ) -> list[Block]:
        blocks: list[Block] = []
        small: list[Draft] = []
        head = self.head(strand)
        for item in items:
            if isinstance(item, Draft) and item.body is not None:
                assert strand not in self._arriving, "a draft with a body after parts of another transaction"
                small.append(item)  # sealed together with those that follow it: a call for each would cost more
                continue
            blocks += seal_small(small, blocks[-1].position if blocks else head, epoch)
            small.clear()
            previous = blocks[-1].position if blocks else head
            if isinstance(item, BlockPart):
                self._store_part(db, strand, previous.sequence + 1, item)
            else:
                body = self._arriving.pop(strand, None) or LargeBody()
                blocks.append(seal(item, previous, epoch, body.bytes, body.hash))
        return blocks + seal_small(small, blocks[-1].position if blocks else head, epoch)

    def _store_part(self, db: sqlite3.Connection, strand: str, sequence: int, part: BlockPart) -> None:
        body = self._arriving.setdefault(strand, LargeBody())
        # REPLACE: parts of a transaction that never arrived whole may still be there, under this sequence.
        row = (strand, sequence, body.parts, part.statements, part.data)
        db.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?)", row)
        body.add(part)

    def _insert_pages(
        self, db: sqlite3.Connection, strand: str, blocks: Sequence[Block], frames: Sequence[bytes]
    ) -> int:
        """Store the pages; the latest time at which anything up to their end was committed."""
        high_at = self._head(strand)[1]
        headers = [block[0] for block in blocks]  # by place: a field's name costs a look-up for every block
        rows = []
        for start, end in pairwise(_page_edges(blocks, frames)):
            high_at = max(high_at, max(header.committed_at for header in headers[start:end]))
            first, last = headers[start].sequence, headers[end - 1].sequence
            large = blocks[start].body is None
            rows.append((strand, last, first, high_at, large, b"".join(frames[start:end])))
        db.executemany("INSERT INTO page VALUES (?, ?, ?, ?, ?, ?)", rows)
        # Behind the pages, in their transaction: a definition is there exactly if its block is.
        for block, header in zip(blocks, headers, strict=True):
            if header.flags & HAS_DEFINITIONS:
                self._insert_definitions(db, strand, block)
        return high_at

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

    def _advance(self, strand: str, blocks: Sequence[Block], high_at: int) -> None:
        if blocks:
            self._recent.setdefault(strand, RecentBlocks()).add(blocks)
            self._heads[strand] = (blocks[-1].position, high_at)

    def _prove_parts(self, strand: str, block: Block) -> None:
        try:
            prove_parts(self, block)
        except Corrupt:
            # Kept, they would fail whatever other copy of the block is fetched next: parts are stored by number.
            with self._transaction() as db:
                db.execute("DELETE FROM part WHERE strand = ? AND sequence = ?", (strand, block.header.sequence))
            raise

    def forget_end(self, strand: str) -> None:
        """Read the end anew from the file: it was cut."""
        self._heads.pop(strand, None)
        self._recent.pop(strand, None)
        self._arriving.pop(strand, None)

    def set_note(self, key: str, value: str) -> None:
        """Note a fact; durable on return."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (key, value))

    def replace_notes(self, prefix: str, notes: Mapping[str, str]) -> None:
        """These notes in place of all that begin with ``prefix``; durable on return, all or nothing."""
        with self._transaction() as db:
            db.execute("DELETE FROM note WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
            db.executemany("INSERT INTO note VALUES (?, ?)", list(notes.items()))

    def changing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """A transaction of the writer, for what looks after the journal (``pruning``): short, for appends wait."""
        return self._transaction()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, translated(self.path, on_damage=self.on_damage):
            assert self._writer is not None, "the journal is not open"
            with transaction(self._writer):
                yield self._writer

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


def _page_edges(blocks: Sequence[Block], frames: Sequence[bytes]) -> list[int]:
    """Where each page begins, and the end of the last one; a large block stands alone."""
    edges, size, large = [0], 0, False
    for place, (block, frame) in enumerate(zip(blocks, frames, strict=True)):
        was_large, large = large, block[3] is None
        # A large block stands alone: its parts have to be sent before its page, and no other block behind them.
        if place and (large or was_large or size >= PAGE_BYTES or place - edges[-1] >= PAGE_BLOCKS):
            edges.append(place)
            size = 0
        size += len(frame)
    return [*edges, len(blocks)] if blocks else edges
