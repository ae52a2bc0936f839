"""Worlds on each kind of replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.format.statement import pack_define
from tests.contracts.replica_kinds import Kind, PostgresKind, SqliteKind
from tests.verify.repair.world import LOG, NOTES, PAIRS, World


@pytest.fixture(params=["sqlite", "postgres"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Kind, Kind]:
    if request.param == "sqlite":
        return SqliteKind(tmp_path / "replica.db"), SqliteKind(tmp_path / "reference.db")
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return PostgresKind(new_database()), PostgresKind(new_database())


@pytest.fixture
def world(tmp_path: Path, databases: tuple[Kind, Kind]) -> Iterator[World]:
    """Its first block defines the tables: relations 1, 2 and 3."""
    made = World(tmp_path, databases)
    made.write(*(pack_define(number, table) for number, table in enumerate((NOTES, PAIRS, LOG), 1)))
    yield made
    made.close()
