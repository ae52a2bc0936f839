"""What is at risk, read from real journals: an embedded ledger against a plain model, and rows of PostgreSQL's kind."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from replicator.cluster.failover import amount_reader as module
from replicator.cluster.failover.amounts import AmountRule
from replicator.cluster.failover.at_risk import AtRisk
from replicator.cluster.failover.rows_before import RowsBefore
from replicator.format.block import HAS_DEFINITIONS, Draft
from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, pack_row
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from replicator.ledger.commit import Committer
from replicator.ledger.planning import TransactionAnswer
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal
from tests.ledger.region import WALLETS, change, insert, new_journal, options, transaction

RULE = AmountRule("wallets", "balance", currency_column="currency")
STRAND = "main"


class World:
    """A journal with its history index, and what watches over it."""

    def __init__(self, directory: Path, *, history: bool = True) -> None:
        self.directory = directory
        self.journal = new_journal(directory)
        self.index = HistoryIndex(directory / "history.sqlite3", self.journal)
        self.index.open()
        self.tail = JournalHead(self.journal.head(STRAND))
        rows = RowsBefore(self.index, STRAND) if history else None
        self.at_risk = AtRisk(self.journal, self.tail, (RULE,), rows)

    def close(self) -> None:
        self.index.close()
        self.journal.close()

    def look(self, *, indexed: bool = True) -> tuple[dict[tuple[str, str], Decimal], int]:
        """The amounts, and what is not known, as after the next look."""
        head = self.journal.head(STRAND)
        self.tail.moved(head, 0)
        while indexed and self.index.step(STRAND, head.sequence) < head.sequence:
            pass
        assert self.at_risk._reading is not None
        self.at_risk._reading.look(self.at_risk.received, head.sequence)
        view = self.at_risk.view()
        return {key: value for key, value in view.amounts.items() if value}, view.unknown


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_histories_of_an_embedded_ledger(world: World) -> None:
    """Random transactions, reports and looks."""
    draws = random.Random(7)
    committer = Committer(world.journal, STRAND, 1, options(world.directory))
    committer.declare(WALLETS)
    wallets: dict[str, tuple[str, Decimal]] = {}
    sums: list[dict[tuple[str, str], Decimal]] = [{}]  # of each block
    received = 0
    for step in range(400):
        changed: dict[tuple[str, str], Decimal] = {}
        statements = []
        for name in draws.sample("abcdefgh", draws.randrange(1, 4)):
            statements.append(_statement(draws, name, wallets, changed))
        (answer,) = committer.execute([transaction(*statements)])
        assert isinstance(answer, TransactionAnswer), answer
        sums.append(changed)
        if draws.random() < 0.2:
            received = draws.randrange(received, len(sums) + 1)
            world.at_risk.reported("eu", received)
        if draws.random() < 0.3 or step == 399:
            expected: dict[tuple[str, str], Decimal] = {}
            for block in sums[received:]:
                for key, value in block.items():
                    expected[key] = expected.get(key, Decimal(0)) + value
            assert world.look() == ({key: value for key, value in expected.items() if value}, 0)
            assert world.at_risk.view().blocks == len(sums) - received
    committer.close()


def _statement(
    draws: random.Random, name: str, wallets: dict[str, tuple[str, Decimal]], changed: dict[tuple[str, str], Decimal]
) -> dict[str, Any]:
    def add(currency: str, value: Decimal) -> None:
        key = ("wallets", currency)
        changed[key] = changed.get(key, Decimal(0)) + abs(value)

    amount = Decimal(draws.randrange(-500, 500)) / 100
    if name not in wallets:
        wallets[name] = (draws.choice(["EUR", "USD"]), amount)
        add(*wallets[name])
        return insert(wallet_id=name, currency=wallets[name][0], balance=float(amount))
    currency, before = wallets[name]
    match draws.randrange(4):
        case 0:
            del wallets[name]
            add(currency, before)
            return change("delete", name)
        case 1:
            other = {"EUR": "USD", "USD": "EUR"}[currency]
            wallets[name] = (other, before)
            add(currency, before)
            add(other, before)
            return change("update", name, set={"currency": other})
        case 2:
            return change("update", name, set={"note": "nothing of the amount"})
    wallets[name] = (currency, before + amount)
    add(currency, amount)
    return change("add", name, add={"balance": float(amount)})


NUMERIC = Definition(
    "public",
    "wallets",
    (
        Column("id", "integer", "binary", number=1),
        Column("balance", "numeric", number=2),
        Column("currency", "text", number=3),
        Column("note", "text", number=4),
    ),
    ("id",),
)


def row(id_: int, balance: Any, currency: Any = b"EUR", note: Any = b"n") -> bytes:
    return pack_row([struct.pack(">i", id_), balance, currency, note])


def key(id_: int) -> bytes:
    return pack_row([struct.pack(">i", id_)])


def append(journal: Journal, *statements: bytes, defines: bool = False) -> None:
    flags = HAS_DEFINITIONS if defines else 0
    journal.append(STRAND, [Draft("t", "", 1, flags, len(statements), b"".join(statements))], 1)


@pytest.fixture
def rows(world: World) -> World:
    """Rows 1 (100 EUR) and 2 (50 EUR), which another region has."""
    append(
        world.journal,
        pack_define(1, NUMERIC),
        pack_insert(1, row(1, b"100.00")),
        pack_insert(1, row(2, b"50")),
        defines=True,
    )
    world.at_risk.reported("eu", 1)
    return world


@pytest.mark.parametrize(
    ("statements", "eur", "not_known"),
    [
        ([pack_update(1, row(1, b"70.50"))], "29.50", 0),
        ([pack_update(1, row(1, b"70")), pack_update(1, row(1, b"100"))], "60", 0),
        ([pack_patch(1, row(1, b"90", note=UNCHANGED))], "10", 0),
        ([pack_patch(1, row(1, UNCHANGED, UNCHANGED, b"other"))], "0", 0),
        ([pack_patch(1, row(1, b"90", UNCHANGED))], "0", 1),
        ([pack_update(1, row(3, b"101"), key(1))], "1", 0),
        ([pack_update(1, row(3, b"101"), key(1)), pack_delete(1, key(3))], "102", 0),
        ([pack_delete(1, key(1)), pack_insert(1, row(1, b"1"))], "101", 0),
        ([pack_delete(1, key(1)), pack_delete(1, key(2))], "150", 0),
        ([pack_update(1, row(1, None))], "100", 0),
        ([pack_update(1, row(1, b"NaN"))], "0", 1),
        ([pack_truncate(1)], "0", 1),
    ],
)
def test_statements(rows: World, statements: list[bytes], eur: str, not_known: int) -> None:
    append(rows.journal, *statements)
    amounts, unknown = rows.look()
    assert amounts.get(("wallets", "EUR"), Decimal(0)) == Decimal(eur)
    assert unknown == not_known
    rows.at_risk.reported("us", 2)
    assert rows.look() == ({}, 0)
    assert rows.at_risk.view().blocks == 0


def test_what_was_passed_over_may_have_changed_any_key(rows: World) -> None:
    append(rows.journal, pack_update(1, row(1, b"99")))
    rows.look()
    append(rows.journal, pack_update(1, row(1, b"0")))
    rows.at_risk.reported("eu", 3)  # before anybody looked
    append(rows.journal, pack_update(1, row(1, b"5")))
    assert rows.look() == ({("wallets", "EUR"): Decimal(5)}, 0)


def test_what_the_index_does_not_have_yet_is_unknown(rows: World) -> None:
    rows.look()
    append(rows.journal, pack_update(1, row(1, b"99")))
    assert rows.look(indexed=False) == ({}, 1)
    assert rows.look() == ({("wallets", "EUR"): Decimal(1)}, 0)


def test_without_an_index_an_old_amount_is_unknown_until_its_key_was_seen(tmp_path: Path) -> None:
    world = World(tmp_path, history=False)
    append(world.journal, pack_define(1, NUMERIC), pack_insert(1, row(1, b"100")), defines=True)
    world.at_risk.reported("eu", 1)
    append(world.journal, pack_update(1, row(1, b"90")))
    append(world.journal, pack_update(1, row(1, b"85")))
    assert world.look(indexed=False) == ({("wallets", "EUR"): Decimal(95)}, 1)
    world.close()


def test_look_ups_are_bounded(rows: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUPS_A_LOOK", 1)
    append(rows.journal, pack_update(1, row(1, b"90")), pack_update(1, row(2, b"90")))
    assert rows.look() == ({("wallets", "EUR"): Decimal(100)}, 1)


def test_before_anybody_has_said_anything_all_is_at_risk_and_unknown(world: World) -> None:
    append(world.journal, pack_define(1, NUMERIC), defines=True)
    world.tail.moved(world.journal.head(STRAND), 0)
    assert world.at_risk.view() == (1, {}, 1)


def test_only_regions_that_count_and_what_is_remembered_of_them(world: World) -> None:
    for _ in range(3):
        append(world.journal, pack_define(1, NUMERIC), defines=True)
    tail = JournalHead(world.journal.head(STRAND))
    at_risk = AtRisk(world.journal, tail, regions=frozenset({"eu"}), reports={"eu": 1, "stranger": 3})
    assert at_risk.view().blocks == 2
    at_risk.reported("stranger", 3)
    assert at_risk.view().blocks == 2
    at_risk.reported("eu", 3)
    assert at_risk.view().blocks == 0
    assert AtRisk(world.journal, tail, reports={"eu": 99}).view().blocks == 0
