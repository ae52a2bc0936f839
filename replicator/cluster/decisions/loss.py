"""What a promotion would lose, and whether that is allowed.

Guarantee: what is known to be missing counts in full. What the old primary committed after it was heard last is unknown
to everybody; the zero-loss mode (``acknowledge``) is for whom that matters. What is not known is not allowed where
amounts are limited: an amount that nobody could read counts as too much.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from replicator.cluster.decisions.model import FailoverRules, Observation, Order

CURE = "replicator failover CONFIG --allow-data-loss --reason TEXT decides otherwise"


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


class PromotionLoss(NamedTuple):
    """Blocks that are known to be missing, and the amounts that the primary last said to be at risk, by table and
    currency, a space between the two. ``unknown`` changes have amounts that it did not know."""

    blocks: int
    amounts: dict[str, float]
    unknown: int = 0


def loss(seen: Observation, rules: FailoverRules) -> PromotionLoss:
    """What is known to be lost if this region leads with what it has and what its peers have."""
    reports = [seen.me, *(report for name, report in seen.fresh(rules).items() if name in rules.regions)]
    have = max(report.sequence for report in reports)
    blocks = max(max(report.heard_head for report in reports) - have, 0)
    amounts: dict[str, float] = {}
    for report in reports if blocks else ():
        for currency, amount in report.at_risk.items():
            amounts[currency] = max(amounts.get(currency, 0.0), amount)
    return PromotionLoss(blocks, amounts, max(report.at_risk_unknown for report in reports) if blocks else 0)


def refused(seen: Observation, rules: FailoverRules, order: Order | None) -> str:
    """Why a promotion is refused; empty if it is not."""
    if order is not None and order.allow_data_loss:
        return ""
    lost = loss(seen, rules)
    amounts = {_table_and_currency(name): Decimal(repr(amount)) for name, amount in lost.amounts.items()}
    budget = LossBudget(rules.max_lost_blocks, {t: Decimal(repr(limit)) for t, limit in rules.max_lost_amounts.items()})
    return may_lose(lost.blocks, amounts, budget, unknown=lost.unknown) or ""


def _table_and_currency(name: str) -> tuple[str, str]:
    table, _, currency = name.rpartition(" ")
    return table, currency
