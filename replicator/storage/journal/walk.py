"""Walking a chain from its beginning to its end.

Guarantee: *whole* means that every header, body, part and link was read and proven. What is broken is named by the
first sequence at which it is. Reads page by page: memory does not grow, and a running sidecar is not hindered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from replicator.errors import Corrupt, ReplicatorError
from replicator.format.block import Block, check_link
from replicator.format.position import Position
from replicator.format.wire import unpack_page
from replicator.storage.journal.reading import prove_parts
from replicator.storage.journal.store import Journal

READ_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Walk:
    """A strand's chain: how many blocks were proven, up to which position, and what is broken behind it, if so. It
    begins behind the sequence ``begins_behind``: 0, or where it was pruned or begun."""

    blocks: int
    position: Position
    broken: ReplicatorError | None
    begins_behind: int = 0

    def __str__(self) -> str:
        if self.broken is None:
            begins = f" from behind sequence {self.begins_behind:,}" if self.begins_behind else ""
            return f"strand {self.position.strand}: whole, {self.blocks:,} blocks{begins} up to {self.position}"
        behind = self.position.sequence
        return f"strand {self.position.strand}: broken behind sequence {behind}, at {behind + 1}: {self.broken}"

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "strand": self.position.strand,
            "whole": self.broken is None,
            "blocks": self.blocks,
            "begins_behind": self.begins_behind,
            "position": str(self.position),
            "broken_sequence": None if self.broken is None else self.position.sequence + 1,
            "error": None if self.broken is None else self.broken.as_json(),
        }


def walk(journal: Journal, strand: str) -> Walk:
    """Prove the chain of a strand. Raises Unavailable if the file cannot be read. What a running sidecar prunes
    meanwhile is not called broken: the walk begins again where the journal then begins."""
    while True:
        walked = _walk_from(journal, strand, journal.base(strand))
        if walked.broken is None or journal.base(strand).sequence <= walked.position.sequence:
            return walked


def _walk_from(journal: Journal, strand: str, position: Position) -> Walk:
    blocks, begins = 0, position.sequence
    try:
        for block in _all_blocks(journal, strand, position.sequence):
            check_link(position, block)
            if block.body is None:
                prove_parts(journal, block)
            position = block.position
            blocks += 1
    except Corrupt as error:
        return Walk(blocks, position, error, begins)
    return Walk(blocks, position, None, begins)


def _all_blocks(journal: Journal, strand: str, after: int) -> Iterator[Block]:
    """One block at a time, each proven, so that what is broken is met exactly where it is."""
    while pages := journal.pages(strand, after, READ_BYTES):
        for page in pages:
            yield from unpack_page(page.data)
            after = page.last
