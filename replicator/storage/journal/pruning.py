"""Taking the oldest pages out of a journal, and what there is to know of its extent.

Guarantee: the base moves in the transaction that removes the pages before it, so a journal that is killed at any step
is whole and says where it begins. Each transaction is short: appends wait for it. A large block's parts are many bytes;
its page goes first, and what then belongs to nobody is swept in steps, by the next process too.

Room is used again by what comes; the file itself does not shrink (``replicator journal compact``). All calls block.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from replicator.errors import Halted
from replicator.format.position import Position
from replicator.format.wire import unpack_page
from replicator.storage import sqlite
from replicator.storage.journal.reading import BASE_NOTE, HIGH_NOTE
from replicator.storage.journal.retention import PageFacts
from replicator.storage.journal.store import Journal

STEP_PAGES = 16  # up to 4 MB: SQLite visits each of its own pages that become free
STEP_PARTS = 4
LOOK_PAGES = 256

Probe = Callable[[str], None]  # called at each named step: tests die there


def _no_probe(step: str) -> None:
    pass


class JournalExtent:
    """How large a strand's journal is. ``look`` reads only what has come since."""

    def __init__(self, journal: Journal, strand: str) -> None:
        self._journal = journal
        self._strand = strand
        self._counted = 0  # the sequence up to which bytes are counted
        self.bytes = 0
        self.first_sequence: int | None = None
        self.oldest_at: int | None = None  # µs

    def look(self) -> None:
        """Count what has come, and find the first page."""
        with self._journal.reading() as db:
            page_bytes, last = db.execute(
                "SELECT coalesce(sum(length(data)), 0), max(last) FROM page WHERE strand = ? AND last > ?",
                (self._strand, self._counted),
            ).fetchone()
            if last is not None:  # parts of what is still arriving are not counted: they lie behind the last page
                (part_bytes,) = db.execute(
                    "SELECT coalesce(sum(length(data)), 0) FROM part"
                    " WHERE strand = ? AND sequence > ? AND sequence <= ?",
                    (self._strand, self._counted, last),
                ).fetchone()
                self.bytes += page_bytes + part_bytes
                self._counted = last
            row = db.execute(
                "SELECT first, high_at FROM page WHERE strand = ? ORDER BY last LIMIT 1", (self._strand,)
            ).fetchone()
        self.first_sequence, self.oldest_at = row if row else (None, None)

    def oldest(self) -> list[PageFacts]:
        """The oldest pages that are counted, some of them, without the last one."""
        with self._journal.reading() as db:
            rows = db.execute(
                "SELECT last, high_at, length(data), large FROM page WHERE strand = ? AND last < ?"
                " ORDER BY last LIMIT ?",
                (self._strand, self._counted, LOOK_PAGES),
            ).fetchall()
            return [
                PageFacts(last, high_at, size + (self._part_bytes(db, last) if large else 0))
                for last, high_at, size, large in rows
            ]

    def _part_bytes(self, db: sqlite3.Connection, sequence: int) -> int:
        query = "SELECT coalesce(sum(length(data)), 0) FROM part WHERE strand = ? AND sequence = ?"
        return int(db.execute(query, (self._strand, sequence)).fetchone()[0])


def remove_pages(journal: Journal, strand: str, until: int, probe: Probe = _no_probe) -> Position:
    """Remove the next few of the pages up to and with the one that ends at ``until``; the base then.

    Raises Halted if ``until`` is the journal's end: its last page stays.
    """
    probe("before pages")
    with journal.changing() as db:
        rows = db.execute(
            "SELECT last FROM page WHERE strand = ? AND last <= ? ORDER BY last LIMIT ?", (strand, until, STEP_PAGES)
        ).fetchall()
        if not rows:
            return journal.base(strand)
        last = rows[-1][0]
        # The chain's end is read from the last page: without it the journal would begin again at its base.
        if db.execute("SELECT 1 FROM page WHERE strand = ? AND last > ?", (strand, last)).fetchone() is None:
            raise Halted("last_page", "the journal's last page is not to be removed", place=f"strand {strand}")
        data, high_at = db.execute(
            "SELECT data, high_at FROM page WHERE strand = ? AND last = ?", (strand, last)
        ).fetchone()
        *_, block = unpack_page(data)  # proven: the base is believed from here on, without the blocks before it
        base = block.position
        notes = [(BASE_NOTE + strand, str(base)), (HIGH_NOTE + strand, str(high_at))]
        db.executemany("INSERT OR REPLACE INTO note VALUES (?, ?)", notes)
        probe("within pages")
        db.execute("DELETE FROM page WHERE strand = ? AND last <= ?", (strand, last))
        probe("deleted pages")
    probe("after pages")
    return base


def sweep_parts(journal: Journal, strand: str, probe: Probe = _no_probe) -> bool:
    """Remove a few parts of blocks that are gone; False if there are none. What is still arriving lies behind."""
    with journal.reading() as db:
        query = "SELECT rowid FROM part WHERE strand = ? AND sequence <= ? ORDER BY sequence, number LIMIT ?"
        # Chosen by a reader, by number: the writer's turn is short, and no part is read to be removed.
        rows = db.execute(query, (strand, journal.base(strand).sequence, STEP_PARTS)).fetchall()
    if not rows:
        return False
    probe("before parts")
    with journal.changing() as db:
        db.executemany("DELETE FROM part WHERE rowid = ?", rows)
        probe("within parts")
    probe("after parts")
    return True


def compact(path: Path) -> tuple[int, int]:
    """Give the file's free room back to the disk; the bytes before and after. Nobody else may have it open."""
    before = os.path.getsize(path)
    connection = sqlite.connect(path, synchronous="FULL")
    try:
        with sqlite.translated(path):
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    return before, os.path.getsize(path)
