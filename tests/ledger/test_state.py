"""Looking up many keys in the state."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from replicator.errors import Halted
from replicator.ledger.state import LedgerState
from replicator.ledger.tables import Key, LedgerTable, definition_of
from tests.ledger.region import POINTS, WALLETS, insert, new_committer, options, transaction


@pytest.mark.parametrize("declaration", [WALLETS, POINTS])
def test_many_keys_are_found_by_the_primary_key(tmp_path: Path, declaration: object) -> None:
    committer = new_committer(tmp_path)
    committer.declare(POINTS)
    wallets = [insert(wallet_id=f"w{number}") for number in range(3000)]
    points = [insert("points", tenant="t", number=number) for number in range(3000)]
    committer.execute([transaction(*wallets, *points)])
    state = LedgerState(options(tmp_path).state)
    state.open()
    is_wallets = declaration is WALLETS
    table = LedgerTable(1, definition_of(WALLETS if is_wallets else POINTS))
    keys: list[Key] = [(f"w{number}",) if is_wallets else ("t", number) for number in range(0, 6000, 2)]
    visited: list[str] = []
    assert state._db is not None
    state._db.set_trace_callback(visited.append)
    found = state.documents(table, keys)
    assert set(found) == set(keys[:1500])
    assert all(document.version == 1 for document in found.values())
    with sqlite3.connect(options(tmp_path).state) as db:
        plans = [row[3] for query in visited for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert any(plan.startswith("SEARCH stored") for plan in plans)
    assert not any(plan.startswith("SCAN stored") for plan in plans)
    state.close()


def test_a_state_without_the_table_is_named(tmp_path: Path) -> None:
    new_committer(tmp_path)
    state = LedgerState(options(tmp_path).state)
    state.open()
    with pytest.raises(Halted, match=r"state\.sqlite3"):
        state.documents(LedgerTable(9, definition_of(POINTS)), [("t", 1)])
    state.close()
