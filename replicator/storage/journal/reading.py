"""Reading a journal: by sequence, by start time, by page.

Guarantee: blocks are proven against their hashes whenever they are read from the file; a sequence and a start time
are found by index. Any thread may read, also while another one writes: each read has a connection of its own, and sees
what was committed when it began.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from replicator.errors import Corrupt, Halted
from replicator.format.block import Block, BlockPart, LargeBody
from replicator.format.definition import Definition, unpack_definition
from replicator.format.position import Position, genesis, parse_position
from replicator.format.wire import unpack_page
from replicator.storage.damage import DAMAGED
from replicator.storage.journal.recent import RecentBlocks
from replicator.storage.sqlite import REBUILD, connect, look, translated

READ_BYTES = 1 << 20  # of pages, before it is looked whether there are enough blocks
BASE_NOTE = "base:"  # where a journal begins that does not begin at the strand's first block
HIGH_NOTE = "base_high_at:"  # the latest time at which anything up to there was committed


class JournalPage(NamedTuple):
    """Blocks ``first`` to ``last`` as frames, ready to be sent; a large one's parts must be sent before it."""

    first: int
    last: int
    large: bool
    data: bytes


class JournalReader:
    """The reading half of a journal. ``traceless``: only to read a file that must stay as it is."""

    def __init__(self, path: Path, *, traceless: bool = False) -> None:
        self.path = path
        self.on_damage: Callable[[Path, Halted], None] = lambda path, error: None  # hears of it if the file is damaged
        self._traceless = traceless
        self._readers: list[sqlite3.Connection] = []
        self._heads: dict[str, tuple[Position, int]] = {}  # the last block's position, and high_at
        self._recent: dict[str, RecentBlocks] = {}

    def close(self) -> None:
        """Close every connection."""
        while self._readers:
            self._readers.pop().close()
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
            return self._base(strand), self.base_high_at(strand) or 0
        *_, last = self._proven(row[0])  # the page's hashes are proven: nothing is built on a head that is damaged
        return last.position, row[1]

    def _base(self, strand: str) -> Position:
        with self._reader() as db:
            row = db.execute("SELECT value FROM note WHERE key = ?", (BASE_NOTE + strand,)).fetchone()
        return parse_position(row[0]) if row else genesis(strand)

    def base_high_at(self, strand: str) -> int | None:
        """The latest time (µs) at which anything up to the base was committed; None for a journal from block 1 on."""
        with self._reader() as db:
            row = db.execute("SELECT value FROM note WHERE key = ?", (HIGH_NOTE + strand,)).fetchone()
        return int(row[0]) if row else None

    def high_at(self, strand: str, sequence: int) -> int:
        """A time (µs) that nothing up to ``sequence`` was committed after, by the pages: never too early."""
        with self._reader() as db:
            row = db.execute(
                "SELECT high_at FROM page WHERE strand = ? AND last >= ? ORDER BY last LIMIT 1", (strand, sequence)
            ).fetchone()
        return int(row[0]) if row and sequence > self._base(strand).sequence else self.base_high_at(strand) or 0

    # -- reading

    def pages(self, strand: str, after: int, limit_bytes: int) -> list[JournalPage]:
        """Pages with blocks behind the sequence ``after``, one at the least; the first may begin earlier."""
        pages: list[JournalPage] = []
        size = 0
        query = "SELECT first, last, large, data FROM page WHERE strand = ? AND last > ? ORDER BY last"
        # Closed before the connection is given back: a read that was left in its midst holds its snapshot, and whoever
        # takes the connection next would not see what was committed since.
        with self._reader() as db, contextlib.closing(db.execute(query, (strand, after))) as rows:
            for first, last, large, data in rows:
                pages.append(JournalPage(first, last, bool(large), data))
                size += len(data)
                if size >= limit_bytes:
                    break
        return pages

    def blocks(self, strand: str, after: int, limit_bytes: int, limit_blocks: int = 2**63 - 1) -> list[Block]:
        """The blocks behind the sequence ``after``, proven against their hashes: about ``limit_bytes`` of them, at most
        ``limit_blocks``, at least one if there is any."""
        recent = self._recent.get(strand)
        if recent is not None and (blocks := recent.behind(after, limit_bytes, limit_blocks)):
            return blocks
        blocks = []
        while limit_bytes > 0 and len(blocks) < limit_blocks:
            # A page at a time is proven, not all that the bytes allow: it may be one block that is asked for.
            pages = self.pages(strand, after, min(limit_bytes, READ_BYTES))
            if not pages:
                break
            for page in pages:
                blocks += [block for block in self._proven(page.data) if block.header.sequence > after]
                limit_bytes -= len(page.data)
                after = page.last
                if len(blocks) >= limit_blocks:
                    break
        return blocks[:limit_blocks]

    def block(self, strand: str, sequence: int) -> Block | None:
        """One block, if it is here."""
        return next((block for block in self.around(strand, sequence) if block.header.sequence == sequence), None)

    def around(self, strand: str, sequence: int) -> list[Block]:
        """The blocks that were stored together with this one, itself among them; none if it is not here."""
        return [block for page in self.pages(strand, sequence - 1, 1) for block in self._proven(page.data)]

    def parts(self, strand: str, sequence: int, first: int = 0) -> Iterator[BlockPart]:
        """The pieces of a large block, in order, one at a time; from number ``first`` on. Behind the last one Corrupt
        is raised if all of them, read from the first on, are not the block's body: use what they say only then."""
        number, body = first, LargeBody()
        while True:  # a read for each: between two of them nothing is held open, however slowly they are taken
            with self._reader() as db:
                row = db.execute(
                    "SELECT statements, data FROM part WHERE strand = ? AND sequence = ? AND number = ?",
                    (strand, sequence, number),
                ).fetchone()
            if row is None:
                break
            part = BlockPart(*row)
            if not first:
                body.add(part)
            yield part
            number += 1
        block = None if first else self.block(strand, sequence)  # None: it is still arriving, or was pruned meanwhile
        if block is not None and block.body is None and number:
            with self._damage_told():
                body.prove(block.header)

    def prove(self, strand: str, sequence: int) -> None:
        """Raise Corrupt if the pieces of a large block are not its body; a small one was proven as it was read."""
        for _ in self.parts(strand, sequence):
            pass

    def part_sizes(self, strand: str, sequence: int) -> list[int]:
        """How many statements each piece of a large block has; none of them is read."""
        with self._reader() as db:
            query = "SELECT statements FROM part WHERE strand = ? AND sequence = ? ORDER BY number"
            return [row[0] for row in db.execute(query, (strand, sequence))]

    def position_at(self, strand: str, sequence: int) -> Position | None:
        """This chain's position at a sequence; None where it has none."""
        base = self._base(strand)
        if sequence == base.sequence:
            return base
        recent = self._recent.get(strand)  # may hold what was pruned, which is no longer here
        if recent is not None and sequence > base.sequence and (blocks := recent.behind(sequence - 1, 1, 1)):
            return blocks[0].position
        block = self.block(strand, sequence)
        return block.position if block else None

    def base(self, strand: str) -> Position:
        """The position that this journal begins behind."""
        return self._base(strand)

    def sequence_before(self, strand: str, time: int) -> int:
        """The sequence behind which reading must begin to get every block committed at or after ``time`` (µs).

        By the index over ``high_at``: everything before the first page that reaches ``time`` was committed earlier.
        A journal that begins later gives its beginning; ``reaches_back`` says whether that is all.
        """
        with self._reader() as db:
            row = db.execute(
                "SELECT data FROM page WHERE strand = ? AND high_at >= ? ORDER BY high_at, last LIMIT 1", (strand, time)
            ).fetchone()
        if row is None:
            return self.head(strand).sequence
        # Of the page's blocks the first that reaches the time, wherever it stands: clocks jump within a page, too.
        for block in self._proven(row[0]):
            if block.header.committed_at >= time:
                return block.header.sequence - 1
        # The page only says how late what came before the beginning was: by a clock that has jumped back since.
        return self._base(strand).sequence

    def reaches_back(self, strand: str, time: int) -> bool:
        """Whether every block that was committed at or after ``time`` (µs) is here; the beginning may be gone."""
        high = self.base_high_at(strand)
        return self._base(strand).sequence == 0 or (high is not None and high < time)

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

    def definitions_in_order(self, strand: str, at: int) -> list[tuple[int, bytes]]:
        """(relation, packed definition) up to the sequence ``at``, in the order in which they came into force."""
        with self._reader() as db:
            return db.execute(
                "SELECT relation, data FROM definition WHERE strand = ? AND sequence <= ? ORDER BY sequence, rowid",
                (strand, at),
            ).fetchall()

    def strands(self) -> list[str]:
        """The strands that have blocks here."""
        with self._reader() as db:
            return [row[0] for row in db.execute("SELECT DISTINCT strand FROM page ORDER BY strand")]

    # -- notes

    def notes(self) -> dict[str, str]:
        """Everything noted."""
        with self._reader() as db:
            return dict(db.execute("SELECT key, value FROM note").fetchall())

    def reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """A reader's connection, for what looks after the journal (``pruning``)."""
        return self._reader()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path, on_damage=self.on_damage):
            try:
                connection = self._readers.pop()  # as ``append`` below it is one step: threads need no lock
            except IndexError:
                connection = self._new_reader()
            try:
                yield connection
            finally:
                self._readers.append(connection)

    def _proven(self, data: bytes) -> list[Block]:
        """A page's blocks, each of which proves itself."""
        with self._damage_told():
            return list(unpack_page(data))

    @contextlib.contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except Corrupt as error:
            message = f"the journal does not prove itself: {error.message}"
            self.on_damage(self.path, Halted(DAMAGED, message, place=str(self.path), cure=REBUILD))
            raise

    def _new_reader(self) -> sqlite3.Connection:
        return look(self.path) if self._traceless else connect(self.path, synchronous="FULL", read_only=True)


def prove_parts(journal: JournalReader, block: Block) -> None:
    """Raise Corrupt unless the parts that are stored for a large block are its body."""
    body = LargeBody()
    for part in journal.parts(block.header.strand, block.header.sequence):
        body.add(part)
    body.prove(block.header)  # also where there is no piece at all
