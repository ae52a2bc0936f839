"""Random histories on a replica that refuses: nothing is lost or doubled, also if replay dies at any of its steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.format.row import UNCHANGED
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from replicator.pipeline.replay import quarantine_replay
from replicator.pipeline.replay.quarantine_replay import GroupFilter
from replicator.pipeline.replicas.quarantine import QuarantineClosing
from tests.contracts.replica_kinds import STRAND, PostgresKind, SqliteKind, row, table
from tests.pipeline.replay.strand import WALLETS, Strand, wallet

HISTORIES = 120
KEYS = 6


class Ledger:
    """A source that never contradicts itself: balances by id, and the statements that led there."""

    def __init__(self, draws: random.Random) -> None:
        self.draws = draws
        self.rows: dict[int, int] = {}
        self.relation = 1

    def statement(self) -> bytes:
        draws, rows = self.draws, self.rows
        kind = draws.choice(["insert", "update", "update", "patch", "move", "patch move", "delete", "truncate"])
        there, free = sorted(rows), sorted(set(range(KEYS)) - rows.keys())
        balance = draws.randrange(-2, 8)
        if kind == "truncate" and draws.random() < 0.2:
            rows.clear()
            return pack_truncate(self.relation)
        if not there or (kind == "insert" and free):
            key = draws.choice(free)
            rows[key] = balance
            return pack_insert(self.relation, wallet(key, balance))
        key = draws.choice(there)
        if kind == "delete":
            del rows[key]
            return pack_delete(self.relation, row(str(key)))
        if kind in ("move", "patch move") and free:
            other = draws.choice(free)
            if kind == "patch move":
                rows[other] = rows.pop(key)
                return pack_patch(self.relation, row(str(other), "ann", UNCHANGED), row(str(key)))
            del rows[key]
            rows[other] = balance
            return pack_update(self.relation, wallet(other, balance), row(str(key)))
        rows[key] = balance
        if kind == "patch":
            return pack_patch(self.relation, row(str(key), UNCHANGED, str(balance)))
        return pack_update(self.relation, wallet(key, balance))


def write_some(strand: Strand, ledger: Ledger) -> None:
    """Some blocks, now and then a large one or a definition that changes."""
    for _ in range(ledger.draws.randrange(1, 4)):
        chance = ledger.draws.random()
        if chance < 0.15:
            statements = statements_of(ledger)
            cut = ledger.draws.randrange(len(statements) + 1)
            strand.write_large([part for part in (statements[:cut], statements[cut:]) if part])
        elif chance < 0.2:
            ledger.relation += 1
            wide = [("id", "bigint"), ("owner", "text"), ("balance", "integer" if ledger.relation < 4 else "bigint")]
            strand.define(pack_define(ledger.relation, table(wide, ["id"], user="owner")), *statements_of(ledger))
        else:
            strand.write(*statements_of(ledger))


def statements_of(ledger: Ledger) -> list[bytes]:
    return [ledger.statement() for _ in range(ledger.draws.randrange(1, 5))]


def wallets(strand: Strand) -> dict[int, int]:
    return {int(key): int(balance) for key, balance in strand.wallets().items()}


def replay_all(strand: Strand) -> list[str]:
    closing = QuarantineClosing("replayed", 1, "ann", "cured")
    tried = strand.replayer.run(
        lambda replica, applied: quarantine_replay.replay(replica, applied, GroupFilter(), closing)
    )
    return [one.outcome for one in tried]


def live(strand: Strand, ledger: Ledger) -> None:
    """A life of the ledger with a replica that refuses negative balances for a while, and is cured in the end."""
    draws = ledger.draws
    strand.define(pack_define(1, WALLETS))
    strand.replay()
    strand.refuse()
    for _ in range(draws.randrange(2, 6)):
        write_some(strand, ledger)
        strand.replay()
        held = {int(key[0]) for key in strand.replica.quarantine().keys(STRAND).get("wallets", set())}
        found = wallets(strand)
        for key in set(range(KEYS)) - held:
            assert found.get(key) == ledger.rows.get(key), f"key {key} is not held, and differs"
        if draws.random() < 0.3:
            replay_all(strand)  # what can be: nothing is cured yet
        if draws.random() < 0.3:
            strand.again()
    strand.allow()
    assert set(replay_all(strand)) <= {"replayed"}
    assert wallets(strand) == ledger.rows
    assert strand.open() == []
    write_some(strand, ledger)
    strand.replay()
    assert wallets(strand) == ledger.rows


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_once_cured_the_replica_equals_the_ledger(tmp_path: Path, seed: int) -> None:
    live(Strand(SqliteKind(tmp_path / "replica.db"), tmp_path), Ledger(random.Random(seed)))


@pytest.mark.parametrize("seed", range(HISTORIES, HISTORIES + 12))
def test_once_cured_a_postgres_replica_equals_the_ledger(
    new_database: Callable[[], str], tmp_path: Path, seed: int
) -> None:
    live(Strand(PostgresKind(new_database()), tmp_path), Ledger(random.Random(seed)))
