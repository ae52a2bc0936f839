"""What remains of a change of role after any part of it was done."""

from __future__ import annotations

import itertools

import pytest

from replicator.cluster.promotion.decide import (
    AdoptionFacts,
    AdoptStep,
    PromoteStep,
    PromotionFacts,
    adoption,
    promotion,
)


def after(facts: PromotionFacts, done: tuple[PromoteStep, ...], epoch: int) -> PromotionFacts:
    """How the world looks then."""
    return PromotionFacts(
        facts.is_source or PromoteStep.BEGIN in done,
        facts.is_replica and PromoteStep.TABLES not in done,
        max(facts.epoch, epoch if PromoteStep.EPOCH in done else 0),
    )


@pytest.mark.parametrize("epoch_first", [False, True])
def test_what_is_left_of_a_promotion_leads_to_its_end(epoch_first: bool) -> None:
    """Also where the epoch's block was appended before."""
    facts = PromotionFacts(is_source=False, is_replica=False, epoch=2 if epoch_first else 1)
    whole = promotion(facts, 2)
    for done in range(len(whole) + 1):
        now = after(facts, whole[:done], 2)
        rest = promotion(now, 2)
        assert promotion(after(now, rest, 2), 2) == ()
        assert (PromoteStep.BEGIN in whole[:done]) == (PromoteStep.SLOT not in rest), (
            "a slot that is read is left alone"
        )


def test_a_region_that_is_a_source_keeps_its_slot_whatever_the_epoch() -> None:
    for epoch in (1, 2, 3):
        assert set(promotion(PromotionFacts(is_source=True, is_replica=False, epoch=2), epoch)) <= {PromoteStep.EPOCH}
    assert promotion(PromotionFacts(is_source=True, is_replica=False, epoch=2), 3) == (PromoteStep.EPOCH,)


def test_a_database_that_was_taken_as_a_replica_is_promoted_anew_whatever_the_notes_say() -> None:
    for is_source in (False, True):
        assert promotion(PromotionFacts(is_source, is_replica=True, epoch=1), 2) == tuple(PromoteStep)


def test_what_is_left_of_an_adoption_leads_to_its_end() -> None:
    for taken, slot, publication, notes in itertools.product([False, True], repeat=4):
        steps = adoption(AdoptionFacts(taken, slot, publication, notes))
        assert list(steps) == sorted(steps, key=list(AdoptStep).index)
        assert (AdoptStep.TAKE in steps) is not taken
        for done in range(len(steps) + 1):
            now = AdoptionFacts(
                taken or AdoptStep.TAKE in steps[:done],
                slot and AdoptStep.SLOT not in steps[:done],
                publication and AdoptStep.PUBLICATION not in steps[:done],
                notes and AdoptStep.NOTES not in steps[:done],
            )
            assert adoption(now) == steps[done:]
