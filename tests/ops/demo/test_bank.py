"""The books hold what was acknowledged, and see every cent that a region has too much, too little or elsewhere."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from replicator.ops.demo.bank import Books, Operation, User, cents, draw, opening

ANN, BEN = User("paris-01", "paris"), User("tokyo-01", "tokyo")
USERS = [ANN, BEN]


def books_after(*operations: Operation) -> Books:
    books = Books(USERS)
    for operation in operations:
        books.acknowledge(operation)
    return books


OPERATIONS = (
    Operation("1", "top-up", ANN, 1000),
    Operation("2", "transfer", ANN, 300, BEN.wallet),
    Operation("3", "redemption", BEN, 100),
)
BALANCES = {ANN.wallet: 700, BEN.wallet: 200}
PAYMENTS = {"1": 1000, "3": 100}


def test_what_was_acknowledged_is_in_the_wallets() -> None:
    books = books_after(*OPERATIONS)
    assert (books.balances, books.payments) == (BALANCES, PAYMENTS)
    assert books.money == 900 == sum(BALANCES.values())
    assert books.differences(BALANCES, PAYMENTS) == []


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (lambda: ({**BALANCES, ANN.wallet: 701}, PAYMENTS), "9.01 in all wallets, 9.00 by the books"),
        (lambda: ({ANN.wallet: 600, BEN.wallet: 300}, PAYMENTS), "wallet w-paris-01: 6.00, by the books 7.00"),
        (lambda: ({ANN.wallet: 1000, BEN.wallet: -100}, PAYMENTS), "wallet w-tokyo-01 is overdrawn"),
        (lambda: ({ANN.wallet: 700}, PAYMENTS), "wallet w-tokyo-01: missing, by the books 2.00"),
        (lambda: (BALANCES, {"1": 1000}), "payment 3: missing, by the books 1.00"),
        (lambda: (BALANCES, {**PAYMENTS, "3-again": 100}), "payment 3-again: 1.00, by the books missing"),
    ],
)
def test_every_difference_is_seen(held: Callable[[], tuple[dict[str, int], dict[str, int]]], told: str) -> None:
    assert told in books_after(*OPERATIONS).differences(*held())


def test_an_operation_is_booked_once() -> None:
    with pytest.raises(AssertionError):
        books_after(OPERATIONS[0], OPERATIONS[0])


def test_a_transfer_is_two_statements_and_never_overdraws() -> None:
    first, second = OPERATIONS[1].body()["statements"]
    assert first["add"] == {"balance": -300}
    assert first["require"] == [["balance", ">=", 0]]
    assert (second["key"], second["add"]) == (BEN.wallet, {"balance": 300})


def test_customers_do_all_kinds_of_things_and_nobody_pays_himself() -> None:
    draws = random.Random(1)
    drawn = [draw(draws, str(n), ANN, USERS) for n in range(500)]
    assert {operation.kind for operation in drawn} == {"top-up", "transfer", "redemption"}
    assert all(operation.other != ANN.wallet for operation in drawn)
    assert len(opening(USERS)["statements"]) == len(USERS)


@pytest.mark.parametrize(("amount", "text"), [(0, "0.00"), (123450, "1,234.50"), (-5, "-0.05"), (-12345, "-123.45")])
def test_money_as_people_write_it(amount: int, text: str) -> None:
    assert cents(amount) == text
