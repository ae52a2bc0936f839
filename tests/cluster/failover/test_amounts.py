"""Amounts at risk: absolute sums by currency, against a plain model; and the budget."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.cluster.decisions.loss import LossBudget, may_lose
from replicator.cluster.failover import amounts as module
from replicator.cluster.failover.amounts import (
    AmountChange,
    AmountRule,
    AmountSum,
    AtRiskSums,
    amount_in,
    between,
    unknown,
)

BALANCE = AmountRule("wallets", "balance", currency_column="currency")
EUR = "EUR"


def money(value: str, currency: str = EUR) -> AmountSum:
    return AmountSum(currency, Decimal(value))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"balance": 5, "currency": EUR}, money("5")),
        ({"balance": Decimal("1.10"), "currency": EUR}, money("1.10")),
        ({"balance": "0.30", "currency": "USD"}, money("0.30", "USD")),
        ({"balance": 0.1, "currency": EUR}, money("0.1")),
        ({"balance": 5}, money("5", "")),
        ({"balance": None, "currency": EUR}, None),
        ({"currency": EUR}, None),
    ],
)
def test_an_amount_is_read_exactly(row: dict[str, Any], found: AmountSum | None) -> None:
    assert amount_in(row, BALANCE) == found


@pytest.mark.parametrize("value", [True, "much", "NaN", "Infinity", [1], {"a": 1}, float("inf"), "$1.00"])
def test_what_is_no_amount_is_not_taken_for_one(value: object) -> None:
    with pytest.raises(ValueError, match="balance"):
        amount_in({"balance": value}, BALANCE)


def test_a_change_counts_with_its_absolute_value() -> None:
    assert between("w", money("10"), money("7.5")).parts == (money("2.5"),)
    assert between("w", None, money("-3")).parts == (money("3"),)
    assert between("w", money("4"), None).parts == (money("4"),)
    assert between("w", money("4"), money("4", "USD")).parts == (money("4"), money("4", "USD"))
    assert between("w", None, None) == AmountChange("w", ())
    assert unknown("w", money("4")) == AmountChange("w", (money("4"),), known=False)


changes = st.builds(
    AmountChange,
    st.sampled_from(["w", "v"]),
    st.lists(st.builds(AmountSum, st.sampled_from([EUR, "USD"]), st.decimals(0, 10**9, places=2)), max_size=2).map(
        tuple
    ),
    st.booleans(),
)
steps = st.lists(st.one_of(st.lists(changes, max_size=3), st.integers(0, 5)), max_size=60)


@given(steps)
def test_the_totals_are_those_of_what_nobody_has(script: list[Any]) -> None:
    """A list is a block; a number is a report of all but so many blocks."""
    sums, blocks, received = AtRiskSums(), list[list[AmountChange]](), 0
    for step in script:
        if isinstance(step, int):
            received = max(received, len(blocks) - step)
            sums.received(received)
        else:
            blocks.append(step)
            sums.add(len(blocks), step)
        left = [change for block in blocks[received:] for change in block]
        expected: dict[tuple[str, str], Decimal] = {}
        for change in left:
            for part in change.parts:
                key = (change.table, part.currency)
                expected[key] = expected.get(key, Decimal(0)) + part.value
        assert {key: value for key, value in sums.totals.items() if value} == {k: v for k, v in expected.items() if v}
        assert sums.unknown == sum(not change.known for change in left)


def test_memory_is_bounded_and_errs_on_the_side_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_LIMIT", 100)
    monkeypatch.setattr(module, "CURRENCIES_LIMIT", 10)
    sums = AtRiskSums()
    for sequence in range(1, 2001):
        sums.add(sequence, [AmountChange("w", (money("1", f"C{sequence % 30}"),))])
    assert len(sums._entries) <= 100
    assert len(sums.totals) == 11
    assert sum(sums.totals.values()) == 2000
    sums.received(1000)
    assert 1000 <= sum(sums.totals.values()) < 1200
    sums.received(2000)
    assert (sums.totals, sums.unknown) == ({}, 0)


def test_the_budget() -> None:
    budget = LossBudget(10, {"w": Decimal(100)})
    at_risk = {("w", EUR): Decimal("100.00"), ("v", EUR): Decimal(10**9)}
    assert may_lose(0, {}, LossBudget()) is None
    assert "1 blocks" in str(may_lose(1, {}, LossBudget()))
    assert may_lose(10, at_risk, budget) is None, "v is not limited"
    assert "11 blocks" in str(may_lose(11, {}, budget))
    assert "100.01 EUR of w" in str(may_lose(10, {("w", EUR): Decimal("100.01")}, budget))
    assert "not known" in str(may_lose(10, {}, budget, unknown=1))
    assert may_lose(10, {}, LossBudget(10), unknown=5) is None, "no amount is limited"
    assert "--allow-data-loss" in str(may_lose(11, {}, budget))
