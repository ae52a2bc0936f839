"""The first block of an epoch.

Guarantee: a chain shows where an epoch began, also before its primary has written anything: an empty block of that
epoch. A region that has blocks of the old epoch behind that place can tell that they are not on this chain. Appending
it twice appends it once.
"""

from __future__ import annotations

from replicator.block import Draft
from replicator.journal.store import Journal
from replicator.position import Position


def append_epoch(journal: Journal, strand: str, epoch: int, now_us: int) -> Position:
    """Begin an epoch at the journal's end; gives the end after it. Blocks. Raises Unavailable or Halted."""
    head = journal.head(strand)
    if head.epoch >= epoch:
        return head
    journal.discard_arriving(strand)
    (block,) = journal.append(strand, [Draft(f"epoch-{epoch}", "", now_us, 0, 0, b"")], epoch)
    return block.position
