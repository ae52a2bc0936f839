"""Finding where this region's chain and another one part.

Guarantee: the fork is the last position that both chains have; a position commits to all history before it, so a binary
search over positions finds it in some twenty questions. Where it cannot be found (one of the two journals begins behind
it, or there is nothing in common) it is said why, and that only a new copy helps. Nothing is changed.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import trio

from replicator.errors import Halted, Rejected
from replicator.format.position import Position
from replicator.pipeline.feed.forks import first_difference

CURE = (
    "replicator bootstrap CONFIG --replace takes a consistent copy from a region that has everything; what is here now"
    " is set aside, not lost (the journal with the blocks that only this region has, too)"
)


class LocalChain(Protocol):
    """What is asked of this region's journal."""

    def head(self, strand: str) -> Position: ...
    def base(self, strand: str) -> Position: ...
    def position_at(self, strand: str, sequence: int) -> Position | None: ...


class RemoteChain(Protocol):
    """What is asked of the other region's feed."""

    async def ends(self, strand: str) -> tuple[Position, Position]: ...
    async def position(self, strand: str, sequence: int) -> Position | None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Fork:
    """Where two chains part. ``position`` is the last one that both have, ``head`` the end of this region's chain,
    ``theirs`` the end of the other one when it was asked. What lies behind ``position`` here is orphans."""

    position: Position
    head: Position
    theirs: Position

    @property
    def strand(self) -> str:
        """The strand of both chains."""
        return self.position.strand

    @property
    def first(self) -> int:
        """The first orphan's sequence; none if ``orphans`` is 0."""
        return self.position.sequence + 1

    @property
    def last(self) -> int:
        """The last orphan's sequence."""
        return self.head.sequence

    @property
    def orphans(self) -> int:
        """How many blocks only this region has."""
        return self.head.sequence - self.position.sequence

    def __str__(self) -> str:
        if not self.orphans:
            return f"no orphans: all of {self.head} is there"
        return f"{self.orphans:,} orphans, {self.first} to {self.last}, behind {self.position}"


async def find_fork(client: RemoteChain, journal: LocalChain, strand: str) -> Fork:
    """Find the fork. Raises Unavailable (the other region does not answer) or Halted (it cannot be found)."""
    head, base = await trio.to_thread.run_sync(journal.head, strand), journal.base(strand)
    try:
        theirs, their_base = await client.ends(strand)
    except Rejected as refusal:
        raise Halted(
            refusal.reason, refusal.message, place=f"strand {strand}", cure="check [region] strand"
        ) from refusal
    if head.sequence == base.sequence:
        return Fork(head, head, theirs)  # no block of its own: what it was copied from is the feed's to check
    least, most = max(base.sequence, their_base.sequence), min(head.sequence, theirs.sequence)
    if most < least:
        raise _not_found(strand, base, their_base)

    async def same(sequence: int) -> bool:
        mine = await trio.to_thread.run_sync(journal.position_at, strand, sequence)
        other = await client.position(strand, sequence)
        if mine is None or other is None:
            raise _not_found(strand, journal.base(strand), their_base)  # pruned meanwhile
        return mine.hash == other.hash

    # Mostly one chain is the longer one of two that do not part: one question then is enough.
    if await same(most):
        return await _fork(journal, strand, most, head, theirs)
    if not await same(least):
        raise _not_found(strand, base, their_base)
    differs = await first_difference(same, least, most)
    return await _fork(journal, strand, differs - 1, head, theirs)


async def _fork(journal: LocalChain, strand: str, sequence: int, head: Position, theirs: Position) -> Fork:
    if sequence == 0:
        raise Halted(
            "nothing_in_common",
            "this region and the one in charge have no block in common: they are not of one ledger",
            place=f"strand {strand}",
            cure=f"check the address of the region in charge; if it is right: {CURE}",
        )
    position = await trio.to_thread.run_sync(journal.position_at, strand, sequence)
    assert position is not None, "it was compared a moment ago"
    return Fork(position, head, theirs)


def _not_found(strand: str, base: Position, their_base: Position) -> Halted:
    """The chains part before one of the journals begins."""
    mine = base.sequence >= their_base.sequence
    where = f"this journal begins behind sequence {base.sequence}"
    if not mine:
        where = f"the other region's journal begins behind sequence {their_base.sequence}"
    reason = "fork_not_here" if mine else "fork_pruned"
    return Halted(
        reason, f"the chains part where one of them is not kept: {where}", place=f"strand {strand}", cure=CURE
    )
