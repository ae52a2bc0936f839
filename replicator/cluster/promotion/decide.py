"""Which steps of a change of role remain. Pure.

Guarantee: the steps come in one order; after any of them, and in the midst of any of them, looking again gives what is
left, and what is left leads to the same end. A region that is a primary's already is never begun anew: its slot may
hold what is not captured yet.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class PromoteStep(enum.Enum):
    """The steps of a promotion, in their order.

    What changes the database comes before the slot, so that it is not captured; so does the publication, for the log is
    read by the catalogs of its time. The journal names the server once all of that is there, and the epoch begins in
    the chain once blocks can follow it."""

    SEQUENCES = "sequences go on beyond what was handed out"
    TABLES = "tables are those of a primary"
    PUBLICATION = "the publication is there"
    SLOT = "the slot is there"
    BEGIN = "the journal says where this server begins"
    EPOCH = "the chain is in the new epoch"


class AdoptStep(enum.Enum):
    """The steps by which a primary's database becomes a replica's, in their order. The slot goes only once the database
    has a position; the notes go last, for they say which slot and publication are ours to drop."""

    TAKE = "the database has a position"
    SLOT = "the slot is gone"
    PUBLICATION = "the publication is gone"
    NOTES = "the journal's notes speak of no source"


class PromotionFacts(NamedTuple):
    """What is seen before a promotion. ``is_source``: the journal's notes name a server that is read, this one.
    ``is_replica``: the database was taken as a replica, and the notes may not know it yet. ``epoch`` is the chain's."""

    is_source: bool
    is_replica: bool
    epoch: int


class AdoptionFacts(NamedTuple):
    """What is seen before a database is taken as a replica. ``taken``: it has been, at the very position."""

    taken: bool
    slot: bool
    publication: bool
    notes: bool


def promotion(facts: PromotionFacts, epoch: int) -> tuple[PromoteStep, ...]:
    """What has to be done until this region is the primary's in ``epoch``."""
    steps = tuple(PromoteStep)
    if facts.is_source and not facts.is_replica:
        steps = steps[steps.index(PromoteStep.EPOCH) :]
    return tuple(step for step in steps if step is not PromoteStep.EPOCH or facts.epoch < epoch)


def adoption(facts: AdoptionFacts) -> tuple[AdoptStep, ...]:
    """What has to be done until the database is a replica's."""
    undone = {
        AdoptStep.TAKE: not facts.taken,
        AdoptStep.SLOT: facts.slot,
        AdoptStep.PUBLICATION: facts.publication,
        AdoptStep.NOTES: facts.notes,
    }
    return tuple(step for step in AdoptStep if undone[step])
