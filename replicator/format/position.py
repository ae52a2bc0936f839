"""Positions: where in a strand's history something stands.

Guarantee: two positions of one strand compare as *equal*, *behind*, *ahead* or *diverged*, and a position
that was printed reads back as the same position. The sequence is gapless within a strand; the hash commits to
everything before it. Non-goal: finding *where* two chains part; that takes the chains (see ``feed``).

Text form, used in URLs, JSON and on the command line: ``strand:epoch:sequence:hash``, the hash in hex.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

HASH_BYTES = 32
ZERO_HASH = bytes(HASH_BYTES)
STRAND_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_SEQUENCE = 2**63 - 1  # what SQLite and PostgreSQL store as an integer


class PositionOrder(enum.Enum):
    """How one position stands to another."""

    EQUAL = "equal"
    BEHIND = "behind"
    AHEAD = "ahead"
    DIVERGED = "diverged"


class Position(NamedTuple):
    """The last block taken in a strand: its epoch, sequence and hash. Sequence 0 is *before the first block*."""

    strand: str
    epoch: int
    sequence: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.strand}:{self.epoch}:{self.sequence}:{self.hash.hex()}"


def genesis(strand: str) -> Position:
    """The position before a strand's first block."""
    return Position(strand, 0, 0, ZERO_HASH)


def parse_position(text: str) -> Position:
    """Read ``strand:epoch:sequence:hash``. Raises ValueError, naming the part that is wrong."""
    parts = text.split(":")
    if len(parts) != 4:
        raise ValueError("a position reads strand:epoch:sequence:hash")
    strand, epoch, sequence, digest = parts
    if not STRAND_PATTERN.fullmatch(strand):
        raise ValueError("the strand's name has 1 to 64 letters, digits, '_', '.' or '-'")
    # ``int`` takes signs, spaces, underscores and the digits of other scripts: a position has one spelling.
    if not all(re.fullmatch(r"[0-9]{1,19}", number) and int(number) <= MAX_SEQUENCE for number in (epoch, sequence)):
        raise ValueError("epoch and sequence are whole numbers from 0 to 2^63-1")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError("the hash has 64 lower-case hex digits")
    return Position(strand, int(epoch), int(sequence), bytes.fromhex(digest))


def compare(mine: Position, other: Position) -> PositionOrder:
    """How ``mine`` stands to ``other``. Divergence is seen only at equal sequences."""
    if mine.strand != other.strand:
        raise ValueError(f"positions of different strands do not compare: {mine.strand!r} and {other.strand!r}")
    if mine.sequence != other.sequence:
        return PositionOrder.BEHIND if mine.sequence < other.sequence else PositionOrder.AHEAD
    return PositionOrder.EQUAL if mine.hash == other.hash else PositionOrder.DIVERGED
