"""Journals as the simulation keeps them: blocks that link to one another."""

from __future__ import annotations

from typing import NamedTuple


class SimulatedBlock:
    """A block. Two journals that hold the same object at a sequence are equal up to there: it links to all before."""

    __slots__ = ("epoch", "previous", "sequence", "what")

    def __init__(self, sequence: int, epoch: int, previous: SimulatedBlock | None, what: str) -> None:
        self.sequence = sequence
        self.epoch = epoch
        self.previous = previous
        self.what = what

    def __repr__(self) -> str:
        return f"{self.what}@{self.epoch}.{self.sequence}"


class PulledBlocks(NamedTuple):
    """A feed's answer: ``diverged`` and ``ahead`` are what it says of the position that was asked for."""

    says: str  # "", "diverged" or "ahead"
    blocks: list[SimulatedBlock]
    region: str
    head: int


def after(
    journal: list[SimulatedBlock], sequence: int, head: SimulatedBlock | None, limit: int
) -> tuple[str, list[SimulatedBlock]]:
    """What follows a position in a journal, or why nothing can."""
    if sequence > len(journal):
        return "ahead", []
    if sequence and journal[sequence - 1] is not head:
        return "diverged", []
    return "", journal[sequence : sequence + limit]


def fork(mine: list[SimulatedBlock], theirs: list[SimulatedBlock]) -> int:
    """The last sequence that two journals share."""
    low, high = 0, min(len(mine), len(theirs))
    while low < high:
        middle = (low + high + 1) // 2
        if mine[middle - 1] is theirs[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
