"""Applying a batch of which the replica refuses something: all that can be done is, the rest is set aside.

Guarantee: each statement, in the order of the blocks, is either done or set aside, in the one transaction of the batch;
where nothing is to be set aside, the first that is refused by itself halts. What is set aside was refused by itself, or
waits behind one that was.

The idea: try all as one step; if it is refused, try its halves one after the other, cut between blocks as long as there
is more than one. A statement that is refused alone is set aside. DEFINE and TRUNCATE, which change what the following
statements mean, are tried alone. So one bad statement in a batch of n costs about 2 log n tries, not n.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from replicator.errors import Halted
from replicator.format.block import Header
from replicator.format.definition import Definition, unpack_definition
from replicator.format.statement import DEFINE, TRUNCATE
from replicator.pipeline.replay.planner import Planner
from replicator.pipeline.replay.quarantine import Quarantine, is_curable
from replicator.pipeline.replicas.base import Replica


class PlacedStatement(NamedTuple):
    """A statement with the header of its block, and its place among the block's statements, from 0."""

    header: Header
    ordinal: int
    statement: list[Any]


class SingleStatementReplay:
    """Replays within one transaction. ``definitions`` are those in force before it, and follow what is applied."""

    def __init__(
        self, replica: Replica, strand: str, definitions: Mapping[int, Definition], quarantine: Quarantine
    ) -> None:
        self._replica = replica
        self._strand = strand
        self._quarantine = quarantine
        self.definitions = dict(definitions)

    def apply(self, placed: Sequence[PlacedStatement]) -> None:
        """Do these, or set them aside. Raises Unavailable, or Halted at what must not be set aside."""
        for run in _runs(placed):
            self._take(run)

    def _take(self, placed: Sequence[PlacedStatement]) -> None:
        # Again for each half: what the first half set aside may block what the second one holds.
        placed = [statement for statement in placed if not self._quarantine.add_if_blocked(*statement)]
        if not placed:
            return
        try:
            self._attempt(placed)
        except Halted as error:
            if len(placed) == 1:
                self._quarantine.add_refused(*placed[0], error)
                return
            if not is_curable(error):
                raise
            middle = _middle(placed)
            self._take(placed[:middle])
            self._take(placed[middle:])

    def _attempt(self, placed: Sequence[PlacedStatement]) -> None:
        planner = Planner(self.definitions)
        for header, ordinal, statement in placed:
            planner.add(header.sequence, [statement], ordinal)
        self._replica.attempt(self._strand, planner.take())
        if placed[0].statement[0] in (DEFINE, TRUNCATE):
            self._quarantine.note_done(*placed[0])
            if placed[0].statement[0] == DEFINE:
                self.definitions[placed[0].statement[1]] = unpack_definition(placed[0].statement[2])


def _runs(placed: Sequence[PlacedStatement]) -> Iterator[list[PlacedStatement]]:
    """The statements in their order, each DEFINE and TRUNCATE alone."""
    for is_alone, run in itertools.groupby(placed, key=lambda each: each.statement[0] in (DEFINE, TRUNCATE)):
        if is_alone:
            yield from ([each] for each in run)
        else:
            yield list(run)


def _middle(placed: Sequence[PlacedStatement]) -> int:
    """Where to cut: at the beginning of a block near the middle, or in the middle of the only one."""
    half = len(placed) // 2
    # Between blocks if possible: a transaction may pass through states that the replica takes only as a net effect.
    sequences = [each.header.sequence for each in placed]
    before = bisect.bisect_left(sequences, sequences[half])
    after = bisect.bisect_right(sequences, sequences[half])
    if before == 0 and after == len(placed):
        return half
    return before or after
