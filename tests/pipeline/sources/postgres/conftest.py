"""Ledgers of a test's own; what they leave in the server is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.pipeline.sources.postgres.ledger import Ledger


@pytest.fixture
def new_ledger(new_database: Callable[[], str]) -> Iterator[Callable[..., Ledger]]:
    """Makes a ledger in a database of its own, with these options."""
    ledgers: list[Ledger] = []

    def make(**options: object) -> Ledger:
        ledgers.append(Ledger(new_database(), **options))
        return ledgers[-1]

    yield make
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(new_ledger: Callable[..., Ledger]) -> Ledger:
    """A ledger of wallets."""
    ledger = new_ledger()
    ledger.do(
        "CREATE TABLE wallets (id int PRIMARY KEY, user_id text, balance numeric(12,2) NOT NULL, note text)",
        "INSERT INTO wallets SELECT i, 'user ' || i % 10, i, NULL FROM generate_series(1, 100) i",
    )
    return ledger
