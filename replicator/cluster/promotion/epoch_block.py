"""The first block of an epoch: empty, so that the chain itself says where the term of ownership changed.

Guarantee: an epoch begins once. The block's origin is empty, for it comes from no source's log: whoever reads on in a
log looks for the last block that has one.
"""

from __future__ import annotations

from replicator.errors import Halted
from replicator.format.block import Draft
from replicator.format.position import Position
from replicator.storage.journal.store import Journal


def append_epoch(journal: Journal, strand: str, epoch: int, now_us: int) -> Position:
    """Begin ``epoch`` in the chain, unless the head is of it already; gives the head. Blocks; durable on return.

    Raises Halted if the chain is in a later epoch.
    """
    head = journal.head(strand)
    if head.sequence and head.epoch > epoch:
        raise Halted(
            "old_epoch",
            f"epoch {epoch} cannot begin behind epoch {head.epoch}",
            place=f"strand {strand}, sequence {head.sequence}",
            cure="somebody else leads by now: become a replica",
        )
    if not head.sequence or head.epoch < epoch:
        journal.append(strand, [Draft(f"epoch-{epoch}", "", now_us, 0, 0, b"")], epoch)
    return journal.head(strand)
