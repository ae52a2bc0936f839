"""What a promotion would lose, and whether that is allowed.

Guarantee: what is known to be missing counts in full. What the old primary committed after it was heard last is unknown
to everybody; the zero-loss mode (``acknowledge``) is for whom that matters.

Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from replicator.failover.seen import Order, Rules, Seen


class Loss(NamedTuple):
    """Blocks that are known to be missing, and the amounts that the primary last said to be at risk."""

    blocks: int
    amounts: dict[str, float]


def loss(seen: Seen, rules: Rules) -> Loss:
    """What is known to be lost if this region leads with what it has and what its peers have."""
    reports = [seen.me, *(report for name, report in seen.fresh(rules).items() if name in rules.regions)]
    have = max(report.sequence for report in reports)
    blocks = max(max(report.heard_head for report in reports) - have, 0)
    amounts: dict[str, float] = {}
    for report in reports if blocks else ():
        for currency, amount in report.at_risk.items():
            amounts[currency] = max(amounts.get(currency, 0.0), amount)
    return Loss(blocks, amounts)


def refused(seen: Seen, rules: Rules, order: Order | None) -> str:
    """Why a promotion is refused; empty if it is not."""
    if order is not None and order.allow_data_loss:
        return ""
    lost = loss(seen, rules)
    if lost.blocks > rules.max_lost_blocks:
        return (
            f"{lost.blocks} blocks of the old primary are nowhere else, {rules.max_lost_blocks} may be lost;"
            " replicator failover --allow-data-loss --reason … decides otherwise"
        )
    for currency, limit in rules.max_lost_amounts.items():
        amount = lost.amounts.get(currency, 0.0)
        if amount > limit:
            return (
                f"{amount:g} {currency} may be lost, {limit:g} are allowed;"
                " replicator failover --allow-data-loss --reason … decides otherwise"
            )
    return ""
