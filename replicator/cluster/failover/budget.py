"""The loss budget: whether a promotion may lose what nobody else has.

Guarantee: pure. What is not known is not allowed where amounts are limited: an amount that nobody could read counts as
too much.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

CURE = "replicator failover --allow-data-loss --reason … decides otherwise"


class LossBudget(NamedTuple):
    """What may be lost: so many ``blocks``, and of each table named in ``amounts`` so much of each currency."""

    blocks: int = 0
    amounts: Mapping[str, Decimal] = {}


def may_lose(
    blocks: int, amounts: Mapping[tuple[str, str], Decimal], budget: LossBudget, *, unknown: int = 0
) -> str | None:
    """Why losing this is not allowed, None if it is. ``amounts`` are by table and currency; ``unknown`` changes are in
    the blocks whose amount is not known."""
    if not blocks:
        return None
    if blocks > budget.blocks:
        return f"{blocks} blocks are nowhere else, {budget.blocks} may be lost; {CURE}"
    for (table, currency), amount in sorted(amounts.items()):
        limit = budget.amounts.get(table)
        if limit is not None and amount > limit:
            return f"{amount:f} {currency} of {table} are nowhere else, {limit:f} may be lost; {CURE}"
    if unknown and budget.amounts:
        return f"the amounts of {unknown} changes that are nowhere else are not known; {CURE}"
    return None
