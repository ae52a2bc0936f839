"""The first block of an epoch: by it the chain itself says where the term of ownership changed.

Guarantee: an epoch begins once. The block holds no rows. An embedded ledger's is empty, and its origin is, too, for it
comes from no source's log. That of a PostgreSQL server that is read says from where each sequence goes on, so that
whoever comes next knows it; its origin is the place up to which the server's log was read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.block import Draft
from replicator.format.position import Position
from replicator.pipeline.sources.postgres.sequences import EPOCH_PREFIX
from replicator.storage.journal.store import Journal


class Beginning(NamedTuple):
    """What the epoch's block says of the server that is read: the place from which its log is read on, and its
    sequences, packed as statements."""

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
        draft = Draft(f"{EPOCH_PREFIX}{epoch}", origin, now_us, 0, len(sequences), b"".join(sequences))
        journal.append(strand, [draft], epoch)
    return journal.head(strand)
