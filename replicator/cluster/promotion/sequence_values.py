"""From where a sequence goes on after a promotion. Pure.

Guarantee: behind every value that is known to be in use, and, as far as the sequence has room, behind those that the
old primary can have handed out unseen; never back, never out of its bounds.

The idea: values are carried every few seconds, rows with their blocks, and where each epoch goes on in its first block.
What was handed out since, to transactions that are lost or never ended, nobody here knows; so a *reserve* of increments
is left out. It is derived from a rate that no single server reaches with durable commits, times the seconds that a
value may be old. A region that has led in between, unheard of, left out its own reserve from about the same value, and
handed out what came behind it: so more is left out for each epoch since the value's (``reserves``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

IDS_PER_SECOND = 20_000
UNSEEN_SECONDS = 10.0  # beside the time between two readings: a reading under way, and a feed that lags


class SequenceFacts(NamedTuple):
    """A sequence as the promoted database has it. ``low`` and ``high`` are its bounds, and its columns'; ``last`` is
    what it handed out last here, None if nothing; ``cache`` values are taken at once by a session."""

    start: int
    increment: int
    low: int
    high: int
    cache: int
    last: int | None


class NextValue(NamedTuple):
    """The sequence goes on behind ``value``, None: as it stands. ``reserve`` is how many increments were left out; less
    than asked for where the sequence has not that much room to spare."""

    value: int | None
    reserve: int


def reserve_of(sequence_seconds: float) -> int:
    """How many increments are left out, given how often sequences are read."""
    return math.ceil(IDS_PER_SECOND * (sequence_seconds + UNSEEN_SECONDS))


def reserves(epochs: int) -> int:
    """How many reserves are left out in the last of so many epochs, of which nobody has heard but the first's values.

    Whoever led hands out one reserve at most, behind those that it left out, and began from a value that is one reserve
    older or younger than ours at most; so three for each epoch lie behind all of it.
    """
    return 3 * epochs - 2


def goes_on(facts: SequenceFacts, used: Iterable[int], reserve: int, epochs: int = 1) -> NextValue:
    """Behind what the sequence goes on; ``used`` are the values that were carried and those that stand in columns,
    ``epochs`` how many have begun since the one that they were carried in, the coming one included."""
    step, furthest = facts.increment, max if facts.increment > 0 else min
    end = facts.high if step > 0 else facts.low
    known = furthest([*used, facts.start - step])  # one step before its start: nothing is in use
    if (end - known) * step <= 0:  # used up: it stands at its end and says so itself
        value, left_out = end, 0
    else:
        room = (end - known) // step
        # A session of the old primary may have taken a whole cache that nobody saw. Half of the room at most, and for
        # each further epoch half of what is left: a small sequence outlives many promotions.
        left_out = min((reserve + facts.cache) * reserves(epochs), room - -(-room >> min(epochs, 63)))
        value = known + left_out * step
    value = min(max(value, facts.low), facts.high)
    if facts.last is not None and furthest(facts.last, value) == facts.last:
        return NextValue(None, left_out)
    return NextValue(value, left_out)
