"""Changing a region's role: a replica's database becomes the primary's, and the other way round.

Guarantee: every step is durable and may be done again; a change that is killed between any two of them is finished by
calling it again. Nothing here decides who may lead, and nothing here opens or closes a fence.

``epoch_block``: the first block of an epoch. ``postgres``: READ FIRST for PostgreSQL; ``decide`` and
``sequence_values`` are its pure decisions, ``promote``, ``adopt`` and ``remaining_log`` what it does.
"""

from replicator.cluster.promotion.epoch_block import append_epoch
from replicator.cluster.promotion.postgres import PostgresRole

__all__ = ["PostgresRole", "append_epoch"]
