"""What of a journal may go: the decision. Pure: no file, no clock.

Guarantee: what this region's own parts still need (its replica, its index of the past) never goes. What a known region
still needs goes only when the journal is beyond ``budget_bytes``, and then the answer names that region. The last page
always stays: the chain's end is read from it.

The idea: pages are looked at oldest first. One goes if it is older than ``keep_age``, or while what is left is beyond
``keep_bytes`` or the budget; the first that stays ends it. Each need is a *hold*: everything up to its sequence may go.
Ages are by the primary's clock; where that once jumped ahead, pages look younger than they are and stay longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

REGION, OWN = "region", "own"


class RetentionPolicy(NamedTuple):
    """How much to keep; None is no limit."""

    keep_age_us: int | None = None
    keep_bytes: int | None = None
    budget_bytes: int | None = None


class RetentionHold(NamedTuple):
    """Somebody has everything up to ``sequence`` and still needs what is behind it. ``kind``: a known region's need
    (``region``) yields to the budget, that of a part of this region (``own``) never does."""

    who: str
    sequence: int
    kind: str


class PageFacts(NamedTuple):
    """A page: its last sequence, the latest time (µs) up to it, and its bytes with the parts of a large block."""

    last: int
    high_at: int
    bytes: int


class PruneChoice(NamedTuple):
    """``pages`` of the oldest may go, up to and with the sequence ``until`` (0: none). ``held_by`` is who keeps the
    next one that should go; ``passed`` are the regions whose needs the budget overrides."""

    pages: int
    until: int
    held_by: RetentionHold | None
    passed: tuple[RetentionHold, ...]


def choose(
    policy: RetentionPolicy,
    journal_bytes: int,
    oldest: Sequence[PageFacts],
    holds: Sequence[RetentionHold],
    now_us: int,
) -> PruneChoice:
    """What may go of ``oldest``, pages in order and without the journal's last one."""
    left, pages, until = journal_bytes, 0, 0
    passed: dict[str, RetentionHold] = {}
    held_by = None
    for page in oldest:
        is_over = policy.budget_bytes is not None and left > policy.budget_bytes
        if not (is_over or _should_go(policy, page, left, now_us)):
            break
        against = [hold for hold in holds if hold.sequence < page.last]
        firm = [hold for hold in against if hold.kind == OWN or not is_over]
        if firm:
            held_by = min(firm, key=lambda hold: (hold.sequence, hold.who))
            break
        passed.update((hold.who, hold) for hold in against)
        left -= page.bytes
        pages, until = pages + 1, page.last
    return PruneChoice(pages, until, held_by, tuple(passed.values()))


def _should_go(policy: RetentionPolicy, page: PageFacts, left: int, now_us: int) -> bool:
    if policy.keep_bytes is not None and left > policy.keep_bytes:
        return True
    return policy.keep_age_us is not None and now_us - page.high_at > policy.keep_age_us
