"""Two states have equal digests exactly if they are equal: over random histories, through replay, on every engine."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.format.digest import Digest, TableDigest
from replicator.format.statement import TRUNCATE
from replicator.pipeline.replay.planner import Planner
from tests.contracts.replica_kinds import STRAND, Kind, PostgresKind, SqliteKind, applied
from tests.verify.histories import history, lines

SEEDS = 40
BUCKETS = 8


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "sqlite":
        return SqliteKind(tmp_path / "replica.db")
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return PostgresKind(new_database())


def test_equal_exactly_if_the_states_are(kind: Kind) -> None:
    replica = kind.replica()
    replica.open()
    planner = Planner({})
    found: list[tuple[dict[int, Digest], dict[bytes, bytes]]] = []
    for seed in range(SEEDS):
        statements, rows = history(random.Random(seed), seed % 20)
        sequence = seed + 1
        planner.add(sequence, [statements[0], [TRUNCATE, 1], *statements[1:]])
        replica.begin()
        replica.apply(STRAND, planner.take())
        replica.commit(applied(sequence))
        state, digest, model = lines(rows), TableDigest("t", BUCKETS), TableDigest("t", BUCKETS)
        reader = kind.reader()
        for chunk in reader.lines("t"):
            digest.add(chunk)
        assert dict(reader.lines_of("t", [[key.decode()] for key in state])) == state, f"seed {seed}"
        reader.close()
        model.add(state.items())
        assert digest.buckets() == model.buckets(), f"seed {seed}"
        found.append((digest.buckets(), state))
    replica.close()
    for (one, state), (other, other_state) in itertools.combinations(found, 2):
        assert (one == other) == (state == other_state)
    assert sum(state == other for (_, state), (_, other) in itertools.combinations(found, 2)) > 1
