"""The first block of an epoch: by it the chain itself says where the term of ownership changed.

Guarantee: an epoch begins once. The block holds no rows, and mostly nothing: then its origin is empty, for it comes
from no source's log. Where another PostgreSQL server is read from now on, the block says from where each sequence goes
on, so that whoever comes next knows it, and its origin is that server's first place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.block import Draft
from replicator.format.position import Position
from replicator.storage.journal.store import Journal


class Beginning(NamedTuple):
    """What the epoch's block says of another server: the place from which its log is read, and its sequences, packed as
    statements."""

    origin: str = ""
    sequences: Sequence[bytes] = ()


def append_epoch(
    journal: Journal, strand: str, epoch: int, now_us: int, beginning: Callable[[], Beginning] = Beginning
) -> Position:
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
        origin, sequences = beginning()
        draft = Draft(f"epoch-{epoch}", origin, now_us, 0, len(sequences), b"".join(sequences))
        journal.append(strand, [draft], epoch)
    return journal.head(strand)
