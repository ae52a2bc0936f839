"""What a promotion would lose, and whether that is allowed.

Guarantee: what is known to be missing counts in full. What the old primary committed after it was heard last is unknown
to everybody; the zero-loss mode (``acknowledge``) is for whom that matters.

Pure.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from replicator.cluster.failover.budget import LossBudget, may_lose
from replicator.cluster.failover.model import FailoverRules, Observation, Order


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
