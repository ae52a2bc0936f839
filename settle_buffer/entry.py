"""Entries: what the buffer orders.

Guarantee: nothing in an entry is interpreted but its place. The body is opaque, ``digest`` names the contents, ``link``
names the digest of the entry before it in the strand (empty where the feed has no such proof).
Non-goal: computing digests; whoever makes the entries knows how theirs are made.
"""

from __future__ import annotations

from operator import itemgetter
from typing import NamedTuple

MAX_SEQUENCE = 2**63 - 1  # what SQLite stores as an integer
PROOF_LIMIT_BYTES = 255  # of a digest or a link
ENTRY_OVERHEAD_BYTES = 360  # what CPython keeps for an entry beside its body: tuple, integers, digest, dictionary slot


class Entry(NamedTuple):
    """One thing to be put in order.

    ``sequence`` is gapless within its strand, from 1 on; in time order it is only a tie-breaker, 0 where the feed has
    none. ``at`` is the event time in microseconds by the feed's clock, ``started_at`` when the work behind it began,
    where that differs.
    """

    strand: str
    sequence: int
    at: int
    digest: bytes
    link: bytes
    body: bytes
    started_at: int | None = None


strand_of = itemgetter(0)
sequence_of = itemgetter(1)
at_of = itemgetter(2)
digest_of = itemgetter(3)
link_of = itemgetter(4)
body_of = itemgetter(5)


def weight(entries: list[Entry]) -> int:
    """The bytes of memory that these entries stand for."""
    return sum(map(len, map(body_of, entries))) + ENTRY_OVERHEAD_BYTES * len(entries)
