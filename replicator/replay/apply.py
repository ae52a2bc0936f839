"""Applying the journal to the replica, one batch at a time.

Guarantee: a batch is whole blocks, applied in one transaction of the replica together with the position, and only
behind the position that the replica itself has stored. So a replay that is killed, or whose commit's outcome is
unknown, opens the replica again, reads where it stands, and goes on: no block is lost, doubled or reordered.

A large block is a batch of its own, applied part by part within its transaction; memory holds a part, not the block.
All calls block; they belong in a worker thread. Non-goal: deciding when (``loop``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from replicator.block import Block, Part, check_link
from replicator.errors import Corrupt, Halted, Unavailable
from replicator.position import Position, genesis
from replicator.replay.plan import Planner
from replicator.replicas.base import Applied, Replica
from replicator.statement import unpack_bodies, unpack_statements

T = TypeVar("T")


class Blocks(Protocol):
    """Where blocks are read from: the region's journal."""

    def blocks(self, strand: str, after: int, limit_bytes: int, limit_blocks: int) -> list[Block]: ...
    def parts(self, strand: str, sequence: int) -> Iterator[Part]: ...
    def position_at(self, strand: str, sequence: int) -> Position | None: ...


class Replayer:
    """Brings one replica forward in one strand. After an error, ``open`` again."""

    def __init__(self, journal: Blocks, replica: Replica, strand: str, batch_bytes: int, batch_blocks: int) -> None:
        self._journal = journal
        self._replica = replica
        self._strand = strand
        self._batch_bytes = batch_bytes
        self._batch_blocks = batch_blocks
        self._planner = Planner({})
        self.applied = Applied(genesis(strand), 0, 0)

    def open(self) -> Applied:
        """Open the replica and find where it stands. Raises Halted if that is not on this journal's chain."""
        self._replica.open()
        self.applied = self._replica.applied(self._strand) or Applied(genesis(self._strand), 0, 0)
        position = self.applied.position
        here = self._journal.position_at(self._strand, position.sequence)
        if here is None:
            raise Halted(
                "replica_not_in_journal",
                "the journal does not hold the block that the replica stands at",
                place=f"replica at {position}",
                cure="use the data directory that this replica was written from, or resync the replica",
            )
        if here.hash != position.hash:
            raise Halted(
                "diverged",
                f"replica and journal hold different blocks at sequence {position.sequence}",
                place=f"replica at {position}",
                cure="find out which one is right before anything else; then resync the other",
            )
        self._planner = Planner(self._replica.definitions(self._strand))
        return self.applied

    def step(self, until: int | None = None) -> Applied:
        """Apply the next batch, not beyond the sequence ``until``; gives where the replica stands then."""
        after = self.applied.position.sequence
        blocks = self._journal.blocks(self._strand, after, self._batch_bytes, self._batch_blocks)
        if until is not None:
            blocks = [block for block in blocks if block.header.sequence <= until]
        if not blocks:
            return self.applied
        check_link(self.applied.position, blocks[0])
        small = next((place for place, block in enumerate(blocks) if block.body is None), len(blocks))
        try:
            if small:
                self._apply_small(blocks[:small])
            else:
                self._apply_large(blocks[0])
        except Corrupt as error:
            last = blocks[max(small - 1, 0)].header.sequence
            raise error.within(f"strand {self._strand}, among sequences {after + 1} to {last}") from error
        return self.applied

    def between(self, work: Callable[[Replica], T]) -> T:
        """Do something with the replica while nothing is applied. What it began and did not commit is undone."""
        try:
            return work(self._replica)
        except BaseException:
            with contextlib.suppress(Unavailable):  # a connection that is lost has undone it
                self._replica.rollback()
            raise

    def _apply_small(self, blocks: Sequence[Block]) -> None:
        for sequence, statements in unpack_bodies(blocks):
            self._planner.add(sequence, statements)
        self._replica.begin()
        self._replica.apply(self._strand, self._planner.take())
        self._commit(blocks[-1], len(blocks))

    def _apply_large(self, block: Block) -> None:
        self._replica.begin()
        for part in self._journal.parts(self._strand, block.header.sequence):
            self._planner.add(block.header.sequence, unpack_statements(part.data))
            self._replica.apply(self._strand, self._planner.take())
        self._commit(block, 1)

    def _commit(self, last: Block, blocks: int) -> None:
        applied = Applied(last.position, last.header.committed_at, self.applied.blocks + blocks)
        self._replica.commit(applied)
        self.applied = applied
