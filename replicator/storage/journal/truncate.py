"""Cutting a journal back: blocks that were sealed are taken off its end.

Guarantee: nothing is cut away but exactly the blocks of a seal that proves itself at this moment, and they go in one
transaction, with everything that stood on them: the definitions that they brought, what is noted beyond the cut, what
followers are known to have of them. A journal that is killed at any step is whole and ends at the fork or at the last
orphan. Parts of large blocks are many bytes: they are swept behind the cut, in steps, by the next process too.

All calls block.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from replicator.errors import Corrupt, Halted
from replicator.format.block import check_link
from replicator.format.position import Position, parse_position
from replicator.format.wire import pack_blocks, unpack_page
from replicator.storage.journal.reading import HIGH_NOTE
from replicator.storage.journal.sealed import Seal, verified
from replicator.storage.journal.store import Journal

STEP_PARTS = 16
VERIFIED_NOTE = "verified:"  # as the watch over a replica notes it
Probe = Callable[[str], None]  # called at each named step: tests die there


def truncate(journal: Journal, seal: Seal, probe: Probe = lambda step: None) -> None:
    """Cut the journal back to the seal's fork; done already, it only sweeps what is left. Durable on return.

    Raises Halted: ``seal_broken``, or ``seal_of_others`` if the journal's end is neither the seal's end nor its fork.
    """
    # Proven here, whoever proved it before: these blocks may be the only copy, and a caller may be wrong.
    if not isinstance(seal, Seal) or verified(seal.directory) != seal:
        raise Halted("not_sealed", "blocks are cut away only with a seal that proves itself", place=str(journal.path))
    strand, head = seal.strand, journal.head(seal.strand)
    if head == seal.last:
        if journal.position_at(strand, seal.fork.sequence) != seal.fork:
            raise _of_others(journal, seal, head)
        probe("before pages")
        with journal.changing() as db:
            _cut_pages(db, seal.fork)
            probe("within pages")
            _bound_notes(db, seal.fork)
            probe("cut pages")
        probe("after pages")
    elif head != seal.fork:
        raise _of_others(journal, seal, head)
    journal.forget_end(strand)  # also where the cut was made by a process that was killed: parts may be left
    while _sweep_parts(journal, seal.fork):
        probe("swept parts")


def _cut_pages(db: sqlite3.Connection, fork: Position) -> None:
    """Remove the pages behind the fork, and the rest of the one that it lies in."""
    strand, sequence = fork.strand, fork.sequence
    split = db.execute(
        "SELECT first, last, data FROM page WHERE strand = ? AND first <= ? AND last > ?", (strand, sequence, sequence)
    ).fetchone()
    db.execute("DELETE FROM page WHERE strand = ? AND last > ?", (strand, sequence))
    db.execute("DELETE FROM definition WHERE strand = ? AND sequence > ?", (strand, sequence))
    if split is None:
        return
    first, _, data = split
    blocks = [block for block in unpack_page(data) if block.header.sequence <= sequence]
    (high_at,) = db.execute("SELECT max(high_at) FROM page WHERE strand = ? AND last < ?", (strand, first)).fetchone()
    if high_at is None:  # the page is the first: what came before it was pruned, or was never here
        note = db.execute("SELECT value FROM note WHERE key = ?", (HIGH_NOTE + strand,)).fetchone()
        high_at = int(note[0]) if note else None
    times = [block.header.committed_at for block in blocks] + ([] if high_at is None else [high_at])
    row = (strand, sequence, first, max(times), 0, b"".join(pack_blocks(blocks)))
    db.execute("INSERT INTO page VALUES (?, ?, ?, ?, ?, ?)", row)


def _bound_notes(db: sqlite3.Connection, fork: Position) -> None:
    """Nobody has been proven equal, or has received anything, beyond the fork of this chain."""
    key = VERIFIED_NOTE + fork.strand
    row = db.execute("SELECT value FROM note WHERE key = ?", (key,)).fetchone()
    if row is not None and parse_position(row[0]).sequence > fork.sequence:
        db.execute("UPDATE note SET value = ? WHERE key = ?", (str(fork), key))
    db.execute(
        "UPDATE follower SET sequence = ? WHERE strand = ? AND sequence > ?",
        (fork.sequence, fork.strand, fork.sequence),
    )


def _sweep_parts(journal: Journal, fork: Position) -> bool:
    """Remove a few parts of blocks that are gone; False if there are none."""
    with journal.changing() as db:
        query = "SELECT rowid FROM part WHERE strand = ? AND sequence > ? LIMIT ?"
        rows = db.execute(query, (fork.strand, fork.sequence, STEP_PARTS)).fetchall()
        db.executemany("DELETE FROM part WHERE rowid = ?", rows)
    return bool(rows)


def check_truncated(journal: Journal, fork: Position) -> None:
    """Read the journal's end back: it is the fork, linked to what lies before it. Raises Corrupt."""
    strand = fork.strand
    blocks = journal.around(strand, fork.sequence)
    previous = journal.position_at(strand, blocks[0].header.sequence - 1) if blocks else journal.base(strand)
    for block in blocks:
        if previous is not None:
            check_link(previous, block)
        previous = block.position
    if previous != fork or journal.head(strand) != fork or journal.pages(strand, fork.sequence, 1):
        message = f"the journal was to end at {fork}, it ends at {previous}"
        raise Corrupt("cut_wrong", message, place=str(journal.path), cure="see replicator journal verify CONFIG")


def _of_others(journal: Journal, seal: Seal, head: Position) -> Halted:
    return Halted(
        "seal_of_others",
        f"the journal ends at {head}; the seal {seal.id} is of the blocks from {seal.fork} to {seal.last}",
        place=str(journal.path),
        cure="start the sidecar again: it finds the fork and seals anew",
    )
