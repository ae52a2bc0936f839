"""The demo's bank: operations on wallets, and the books of what the customers were told. Pure.

Guarantee: the books hold an operation's effect exactly if the ledger acknowledged it, once, however often it was sent.
So what a region holds must equal the books to the cent: money that was lost or spent twice shows.

Amounts are whole cents. A top-up brings money in, a redemption takes it out, a transfer moves it between two wallets.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["top-up", "transfer", "redemption"]
SHOWN_DIFFERENCES = 5
TOO_MUCH = 100_000_000  # no wallet holds so much: refused by its condition


class User(NamedTuple):
    """A customer, at home in a region."""

    id: str
    region: str

    @property
    def wallet(self) -> str:
        """The user's wallet."""
        return f"w-{self.id}"


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One transaction; ``id`` is its idempotency key. ``other`` is the wallet that a transfer goes to."""

    id: str
    kind: Kind
    user: User
    amount: int
    other: str | None = None

    @property
    def effects(self) -> dict[str, int]:
        """The change of each wallet's balance."""
        if self.kind == "top-up":
            return {self.user.wallet: self.amount}
        effects = {self.user.wallet: -self.amount}
        if self.other is not None:
            effects[self.other] = self.amount
        return effects

    def body(self) -> dict[str, Any]:
        """The transaction as the API takes it; the user's own wallet comes first."""
        statements: list[dict[str, Any]] = [
            {"table": "wallets", "op": "add", "key": wallet, "add": {"balance": change}}
            for wallet, change in self.effects.items()
        ]
        if self.kind != "top-up":
            statements[0]["require"] = [["balance", ">=", 0]]
        if self.kind != "transfer":
            document = {"payment_id": self.id, "user_id": self.user.id, "kind": self.kind, "amount": self.amount}
            statements.append({"table": "payments", "op": "insert", "document": document})
        return {"id": self.id, "statements": statements}


def opening(users: Sequence[User]) -> dict[str, Any]:
    """The transaction that opens everybody's wallet."""
    documents = [{"wallet_id": user.wallet, "user_id": user.id, "balance": 0} for user in users]
    inserts = [{"table": "wallets", "op": "insert", "document": document} for document in documents]
    return {"id": "opening", "statements": inserts}


def draw(draws: random.Random, id_: str, user: User, users: Sequence[User]) -> Operation:
    """What a customer does next: mostly what the wallet can bear, now and then far more."""
    choice = draws.random()
    if choice < 0.45:
        return Operation(id_, "top-up", user, draws.randint(1_000, 10_000))
    if choice < 0.75:
        other = draws.choice([another for another in users if another != user])
        return Operation(id_, "transfer", user, draws.randint(100, 2_000), other.wallet)
    amount = TOO_MUCH if choice > 0.97 else draws.randint(100, 3_000)
    return Operation(id_, "redemption", user, amount)


class Books:
    """What was acknowledged, and what it comes to."""

    def __init__(self, users: Sequence[User]) -> None:
        self.balances = {user.wallet: 0 for user in users}
        self.payments: dict[str, int] = {}
        self.amounts: Counter[Kind] = Counter()
        self.counts: Counter[Kind] = Counter()
        self.refused = 0
        self._known: set[str] = set()

    def acknowledge(self, operation: Operation) -> None:
        """Book an operation: the ledger said that it is done."""
        assert operation.id not in self._known, "an operation is booked once"
        self._known.add(operation.id)
        for wallet, change in operation.effects.items():
            self.balances[wallet] += change
        if operation.kind != "transfer":
            self.payments[operation.id] = operation.amount
        self.amounts[operation.kind] += operation.amount
        self.counts[operation.kind] += 1

    def refuse(self) -> None:
        """Count an operation that the ledger said is not done, and will not be."""
        self.refused += 1

    @property
    def acknowledged(self) -> int:
        """The number of operations that were acknowledged."""
        return self.counts.total()

    @property
    def money(self) -> int:
        """What must be in all wallets together."""
        return self.amounts["top-up"] - self.amounts["redemption"]

    def differences(self, balances: Mapping[str, int], payments: Mapping[str, int]) -> list[str]:
        """What a region holds that the books do not say, or the other way round; the first few of each."""
        differences = []
        if sum(balances.values()) != self.money:
            differences.append(f"{cents(sum(balances.values()))} in all wallets, {cents(self.money)} by the books")
        differences += [f"wallet {wallet} is overdrawn" for wallet, balance in balances.items() if balance < 0]
        for name, stored, booked in (("wallet", balances, self.balances), ("payment", payments, self.payments)):
            differing = sorted(key for key in stored.keys() | booked.keys() if stored.get(key) != booked.get(key))
            differences += [
                f"{name} {key}: {_amount(stored.get(key))}, by the books {_amount(booked.get(key))}"
                for key in differing[:SHOWN_DIFFERENCES]
            ]
        return differences


def cents(amount: int) -> str:
    """Cents as people write money: ``1,234.50``."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100:,}.{abs(amount) % 100:02}"


def _amount(amount: int | None) -> str:
    return "missing" if amount is None else cents(amount)
