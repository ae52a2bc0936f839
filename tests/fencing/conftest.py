"""A database with tables of several kinds, its fence, and the applications that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from replicator.fencing.postgres import PostgresFence
from tests.fencing.applications import APP, TABLES


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    """An application's database, for a superuser; the role ``APP`` may do everything in it but is none."""
    made = new_database()
    with psycopg.connect(made, autocommit=True) as db:
        db.execute(f"DO $$ BEGIN CREATE ROLE {APP} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$".encode())
        for statement in TABLES:
            db.execute(statement.encode())
    return made


@pytest.fixture
def fence(dsn: str) -> Iterator[PostgresFence]:
    made = PostgresFence(dsn)
    yield made
    made.release()
