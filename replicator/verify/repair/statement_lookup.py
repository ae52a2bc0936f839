"""Single statements of the journal, by their place.

Guarantee: what is given was proven against its block's hash. Memory is bounded: a few pages, one body or one part.
Whoever asks in the order of the journal has each page read once. Not for more than one thread at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from replicator.errors import Corrupt
from replicator.format.block import Block, BlockPart, Header
from replicator.format.statement import unpack_statements
from replicator.verify.repair.images import Place

PAGES = 4


class StatementJournal(Protocol):
    """What is asked of the region's journal."""

    def around(self, strand: str, sequence: int) -> list[Block]: ...
    def parts(self, strand: str, sequence: int, first: int = 0) -> Iterator[BlockPart]: ...
    def part_sizes(self, strand: str, sequence: int) -> list[int]: ...
    def prove(self, strand: str, sequence: int) -> None: ...


class LocatedStatement(NamedTuple):
    """A statement and the header of its block."""

    header: Header
    statement: list[Any]


class _OpenBody:
    """Unpacked statements and the ordinal of the first: all of a small block's, or those of one part of a large one."""

    def __init__(self, first: int, statements: list[list[Any]]) -> None:
        self.first = first
        self.statements = statements

    def at(self, ordinal: int) -> list[Any] | None:
        if self.first <= ordinal < self.first + len(self.statements):
            return self.statements[ordinal - self.first]
        return None


class StatementLookup:
    """Finds the statements of one strand by their places."""

    def __init__(self, journal: StatementJournal, strand: str) -> None:
        self._journal = journal
        self._strand = strand
        self._pages: OrderedDict[int, dict[int, Block]] = OrderedDict()  # by their first sequence
        self._body: tuple[int, _OpenBody] | None = None
        self._sizes: tuple[int, list[int]] | None = None
        self._proven: set[int] = set()  # large blocks, of which single parts may be read

    def at(self, place: Place) -> LocatedStatement:
        """The statement there. Raises Corrupt (``not_in_journal``) if there is none."""
        sequence, ordinal = place
        block = self._block(sequence)
        if self._body is None or self._body[0] != sequence or self._body[1].at(ordinal) is None:
            self._body = (sequence, self._open(block, ordinal))
        statement = self._body[1].at(ordinal)
        if statement is None:
            raise _missing(place)
        return LocatedStatement(block.header, statement)

    def _block(self, sequence: int) -> Block:
        for first, page in self._pages.items():
            if sequence in page:
                self._pages.move_to_end(first)
                return page[sequence]
        blocks = {block.header.sequence: block for block in self._journal.around(self._strand, sequence)}
        if sequence not in blocks:
            raise _missing((sequence, 0))
        self._pages[min(blocks)] = blocks
        if len(self._pages) > PAGES:
            self._pages.popitem(last=False)
        return blocks[sequence]

    def _open(self, block: Block, ordinal: int) -> _OpenBody:
        if block.body is not None:
            return _OpenBody(0, list(unpack_statements(block.body)))
        sequence = block.header.sequence
        # How many statements each part has: so a part in the middle is read without those before it.
        if sequence not in self._proven:
            self._journal.prove(self._strand, sequence)
            self._proven.add(sequence)
        if self._sizes is None or self._sizes[0] != sequence:
            self._sizes = (sequence, self._journal.part_sizes(self._strand, sequence))
        ends = list(accumulate(self._sizes[1]))
        number = next((number for number, end in enumerate(ends) if ordinal < end), None)
        if number is None:
            raise _missing((sequence, ordinal))
        part = next(self._journal.parts(self._strand, sequence, number))
        return _OpenBody(ends[number] - part.statements, list(unpack_statements(part.data)))


def _missing(place: Place) -> Corrupt:
    return Corrupt("not_in_journal", "there is no such statement", place=f"sequence {place[0]}, ordinal {place[1]}")
