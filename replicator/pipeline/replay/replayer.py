"""Applying the journal to the replica, one batch at a time.

Guarantee: a batch is whole blocks, applied in one transaction of the replica together with the position, and only
behind the position that the replica itself has stored. So a replay that is killed, or whose commit's outcome is
unknown, opens the replica again, reads where it stands, and goes on: no block is lost, doubled or reordered.

One exception: before there is a position, the first copy may be divided where a server cannot hold the locks of all its
tables at once. Its rows are then there before the position, and taken again if it is killed in between.

A large block is a batch of its own, applied part by part within its transaction; memory holds a part, not the block.

A batch of which the replica refuses a statement is done again, statement by statement where it must be
(``one_by_one``), in one transaction: the net effect may meet a unique index in between where the statements themselves
did not. What is refused even then halts, or by policy is set aside.

All calls block; they belong in a worker thread. Non-goal: deciding when (``loop``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from replicator.errors import Corrupt, Halted
from replicator.format.block import Block, BlockPart, check_link
from replicator.format.position import Position, genesis
from replicator.format.statement import unpack_bodies, unpack_statements
from replicator.pipeline.copies.partial_copy import HALF_COPY, refuse_marked
from replicator.pipeline.replay.one_by_one import PlacedStatement, SingleStatementReplay
from replicator.pipeline.replay.planner import Planner
from replicator.pipeline.replay.quarantine import HALTS, Quarantine, QuarantinePolicy, is_curable
from replicator.pipeline.replicas.base import AppliedMark, Replica

FIRST_STEPS = 50  # of a first copy, between two looks whether its transaction has to be divided
T = TypeVar("T")


class Blocks(Protocol):
    """Where blocks are read from: the region's journal."""

    def blocks(self, strand: str, after: int, limit_bytes: int, limit_blocks: int) -> list[Block]: ...
    def parts(self, strand: str, sequence: int) -> Iterator[BlockPart]: ...
    def position_at(self, strand: str, sequence: int) -> Position | None: ...


class Replayer:
    """Brings one replica forward in one strand. After an error, ``open`` again. ``applied`` is where it stands."""

    def __init__(
        self,
        journal: Blocks,
        replica: Replica,
        strand: str,
        batch_bytes: int,
        batch_blocks: int,
        policy: QuarantinePolicy = HALTS,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """``prepare`` makes the database fit to be replayed into; it is called before each opening."""
        self._journal = journal
        self._replica = replica
        self._strand = strand
        self._batch_bytes = batch_bytes
        self._batch_blocks = batch_blocks
        self._prepare = prepare
        self._planner = Planner({})
        self.quarantine = Quarantine(strand, policy)
        self.applied = AppliedMark(genesis(strand), 0, 0)
        self.is_open = False  # false, too, after an error: the replica's state is not known then

    def open(self) -> AppliedMark:
        """Open the replica and find where it stands. Raises Halted if that is not on this journal's chain."""
        self._replica.close()  # what is prepared may need the replica for itself
        self._prepare()
        self._replica.open()
        applied = self._replica.applied(self._strand)
        refuse_marked(self._replica.applied(HALF_COPY), applied)
        self.applied = applied or AppliedMark(genesis(self._strand), 0, 0)
        position = self.applied.position
        here = self._journal.position_at(self._strand, position.sequence)
        if here is None:
            raise Halted(
                "replica_not_in_journal",
                "the journal does not hold the block that the replica stands at",
                place=f"replica at {position}",
                cure="use the data directory that this replica was written from; if that is gone, or the journal was"
                " pruned past the replica: replicator bootstrap CONFIG --replace",
            )
        if here.hash != position.hash:
            raise Halted(
                "diverged",
                f"replica and journal hold different blocks at sequence {position.sequence}",
                place=f"replica at {position}",
                cure="find out which one is right before anything else; then make this region anew:"
                " replicator bootstrap CONFIG --replace",
            )
        self._load()
        self.is_open = True
        return self.applied

    def _load(self) -> None:
        """Begin planner and quarantine anew, from what the replica has stored."""
        definitions = self._replica.definitions(self._strand)
        self._planner = Planner(definitions)
        self.quarantine.load(self._replica, definitions)

    def step(self, until: int | None = None) -> AppliedMark:
        """Apply the next batch, not beyond the sequence ``until``; gives where the replica stands then."""
        after = self.applied.position.sequence
        blocks = self._journal.blocks(self._strand, after, self._batch_bytes, self._batch_blocks)
        if until is not None:
            blocks = [block for block in blocks if block.header.sequence <= until]
        if not blocks:
            return self.applied
        check_link(self.applied.position, blocks[0])
        # Up to the first large block; if that comes first, it is a batch of its own.
        small = next((number for number, block in enumerate(blocks) if block.body is None), len(blocks))
        batch = blocks[: small or 1]
        with self._open_if_done():
            try:
                self._apply(batch)
            except Corrupt as error:
                last = batch[-1].header.sequence
                raise error.within(f"strand {self._strand}, among sequences {after + 1} to {last}") from error
        return self.applied

    def run(self, work: Callable[[Replica, AppliedMark], T]) -> T:
        """Run ``work`` on the replica between two steps (see ``loop``), opening it if it is not."""
        if not self.is_open:
            self.open()
        with self._open_if_done():
            result = work(self._replica, self.applied)
            self._load()
        return result

    @contextlib.contextmanager
    def _open_if_done(self) -> Iterator[None]:
        self.is_open = False
        yield  # no finally: after an error the replica's state is not known
        self.is_open = True

    def _apply(self, batch: Sequence[Block]) -> None:
        try:
            if batch[0].body is None:
                self._apply_large(batch[0])
            else:
                self._apply_small(batch)
        except Halted as error:
            if not is_curable(error):
                raise
            self._replica.rollback()
            self._apply_one_by_one(batch)

    def _apply_small(self, blocks: Sequence[Block]) -> None:
        for block, (sequence, statements) in zip(blocks, unpack_bodies(blocks), strict=True):
            if self.quarantine.has_open:
                statements = self.quarantine.without_blocked(block.header, statements)
            self._planner.add(sequence, statements)
        self._replica.begin()  # only now: the database's locks are not held while the batch is planned
        self._take_planned()
        self._commit(blocks[-1], len(blocks))

    def _apply_large(self, block: Block) -> None:
        self._replica.begin()
        ordinal = 0
        for part in self._journal.parts(self._strand, block.header.sequence):
            statements = unpack_statements(part.data)
            if self.quarantine.has_open:
                statements = self.quarantine.without_blocked(block.header, statements, ordinal)
            self._planner.add(block.header.sequence, statements)
            self._take_planned()
            self.quarantine.store(self._replica)
            ordinal += part.statements
        self._commit(block, 1)

    def _take_planned(self) -> None:
        """Apply what is planned; of a first copy, which may have thousands of tables, some steps at a time."""
        steps = self._planner.take()
        if self.applied.position.sequence:
            self._replica.apply(self._strand, steps)
            return
        for first in range(0, len(steps), FIRST_STEPS):
            self._replica.apply(self._strand, steps[first : first + FIRST_STEPS])
            self._replica.divide()

    def _apply_one_by_one(self, batch: Sequence[Block]) -> None:
        self._load()  # planner and quarantine have taken note of what was rolled back
        self._replica.begin()
        one_by_one = SingleStatementReplay(
            self._replica, self._strand, self._replica.definitions(self._strand), self.quarantine
        )
        for placed in self._placed(batch):
            one_by_one.apply(placed)
            self.quarantine.store(self._replica)
        self._planner = Planner(one_by_one.definitions)
        self._commit(batch[-1], len(batch))

    def _placed(self, batch: Sequence[Block]) -> Iterator[list[PlacedStatement]]:
        """The statements of small blocks together, those of a large one part by part."""
        if batch[0].body is not None:
            yield [
                PlacedStatement(block.header, ordinal, statement)
                for block, (_, statements) in zip(batch, unpack_bodies(batch), strict=True)
                for ordinal, statement in enumerate(statements)
            ]
            return
        header, first = batch[0].header, 0
        for part in self._journal.parts(self._strand, header.sequence):
            statements = unpack_statements(part.data)
            yield [PlacedStatement(header, ordinal, statement) for ordinal, statement in enumerate(statements, first)]
            first += part.statements

    def _commit(self, last: Block, blocks: int) -> None:
        applied = AppliedMark(last.position, last.header.committed_at, self.applied.blocks + blocks)
        self.quarantine.store(self._replica)
        self._replica.commit(applied)
        self.quarantine.note_commit()
        self.applied = applied
