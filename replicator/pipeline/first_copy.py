"""Whether a journal holds the ledger's first copy: all that there was before its changes were followed.

Until the copy's last block is durable in a region, that region holds nothing of the ledger, however far its chain goes:
the first block of an epoch is a block, too. Guarantee: said from the chain itself, so a restart, another role or a
journal that somebody put back changes nothing. A journal that begins later holds what its replica was copied from.
"""

from __future__ import annotations

from replicator.format.block import Header
from replicator.storage.journal.store import Journal


def last_captured(journal: Journal, strand: str, at: int | None = None) -> Header | None:
    """The last block up to the sequence ``at`` (None: the end) that came from a source; the first one of an epoch did
    not, and is passed over. None if there is no such block, or the journal begins behind it."""
    sequence = journal.head(strand).sequence if at is None else at
    while sequence and (block := journal.block(strand, sequence)) is not None:
        if block.header.origin or block.header.statements:
            return block.header
        sequence -= 1
    return None


def has_first_copy(journal: Journal, strand: str, at: int | None = None) -> bool:
    """Whether the chain up to the sequence ``at`` (None: the end) holds the first copy. Blocks."""
    # The first block of a source is its copy: whoever has any block of it has the whole copy, for a block is one.
    return journal.base(strand).sequence > 0 or last_captured(journal, strand, at) is not None
