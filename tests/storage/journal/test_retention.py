"""What may go: by age, by size, never past a need, past a region's only beyond the budget."""

from __future__ import annotations

import random

from replicator.storage.journal.retention import (
    OWN,
    REGION,
    PageFacts,
    PruneChoice,
    RetentionHold,
    RetentionPolicy,
    choose,
)

PAGES = [PageFacts(10 * number, 1000 * number, 100) for number in range(1, 9)]  # up to sequence 80, 100 bytes each
NOW = 10_000


def chosen(policy: RetentionPolicy, *holds: RetentionHold, total: int = 900) -> PruneChoice:
    return choose(policy, total, PAGES, holds, NOW)


def test_without_a_limit_nothing_goes() -> None:
    assert chosen(RetentionPolicy()) == PruneChoice(0, 0, None, ())


def test_by_size_the_oldest_go_until_it_fits() -> None:
    assert chosen(RetentionPolicy(keep_bytes=600)) == PruneChoice(3, 30, None, ())
    assert chosen(RetentionPolicy(keep_bytes=900)).pages == 0


def test_by_age_what_is_older_goes() -> None:
    assert chosen(RetentionPolicy(keep_age_us=6500)) == PruneChoice(3, 30, None, ())


def test_age_and_size_are_both_kept_to() -> None:
    assert chosen(RetentionPolicy(keep_age_us=6500, keep_bytes=400)).until == 50
    assert chosen(RetentionPolicy(keep_age_us=2500, keep_bytes=800)).until == 70


def test_a_need_keeps_the_page_that_it_lies_in() -> None:
    lima, own = RetentionHold("lima", 25, REGION), RetentionHold("its own replica", 44, OWN)
    assert chosen(RetentionPolicy(keep_bytes=0), lima, own) == PruneChoice(2, 20, lima, ())
    assert chosen(RetentionPolicy(keep_bytes=0), own) == PruneChoice(4, 40, own, ())


def test_who_has_everything_holds_nothing() -> None:
    assert chosen(RetentionPolicy(keep_bytes=500), RetentionHold("lima", 40, REGION)) == PruneChoice(4, 40, None, ())


def test_beyond_the_budget_a_region_is_passed_and_named() -> None:
    lima, tokyo = RetentionHold("lima", 5, REGION), RetentionHold("tokyo", 90, REGION)
    choice = chosen(RetentionPolicy(keep_bytes=300, budget_bytes=700), lima, tokyo)
    assert choice == PruneChoice(2, 20, lima, (lima,)), "down to the budget, no further"


def test_the_budget_never_passes_what_this_region_needs_itself() -> None:
    own = RetentionHold("its own replica", 15, OWN)
    assert chosen(RetentionPolicy(budget_bytes=0), own, RetentionHold("lima", 0, REGION)).until == 10


def test_never_past_a_need_and_never_less_than_allowed() -> None:
    """Against the definition, over random journals."""
    draws = random.Random(7)
    for _ in range(2000):
        pages, at, high = [], 0, 0
        for _ in range(draws.randrange(8)):
            at, high = at + draws.randrange(1, 9), high + draws.randrange(50)
            pages.append(PageFacts(at, high, draws.randrange(1, 50)))
        total = sum(page.bytes for page in pages) + 10
        policy = RetentionPolicy(*(draws.choice([None, draws.randrange(200)]) for _ in range(3)))
        holds = [
            RetentionHold(f"r{n}", draws.randrange(40), draws.choice([OWN, REGION])) for n in range(draws.randrange(3))
        ]
        choice = choose(policy, total, pages, holds, 250)
        gone = pages[: choice.pages]
        assert choice.until == (gone[-1].last if gone else 0)
        assert all(hold.sequence >= choice.until for hold in holds if hold.kind == OWN)
        passed = {hold for hold in holds if hold.sequence < choice.until}
        assert set(choice.passed) == passed
        if passed:
            left = total - sum(page.bytes for page in gone[:-1])
            assert policy.budget_bytes is not None
            assert left > policy.budget_bytes
        if choice.pages < len(pages) and choice.held_by is None:
            following, left = pages[choice.pages], total - sum(page.bytes for page in gone)
            assert policy.keep_bytes is None or left <= policy.keep_bytes
            assert policy.budget_bytes is None or left <= policy.budget_bytes
            assert policy.keep_age_us is None or 250 - following.high_at <= policy.keep_age_us
