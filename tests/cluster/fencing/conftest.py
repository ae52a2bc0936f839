"""A database with tables of several kinds, its fence, and the applications that use it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from replicator.cluster.fencing.postgres import PostgresFence
from tests.cluster.fencing.applications import APP, TABLES
from tests.servers import Postgres

RESET = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    "DROP SCHEMA IF EXISTS replicator CASCADE",  # the documented way out: takes the triggers along
    "DO $$ DECLARE name text; BEGIN FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"
    " AND nspname <> 'information_schema' LOOP EXECUTE format('DROP SCHEMA %I CASCADE', name); END LOOP; END $$",
    "CREATE SCHEMA public",
    "GRANT ALL ON SCHEMA public TO PUBLIC",
)


@pytest.fixture(scope="session")
def home(postgres: Postgres) -> str:
    """One database for all of these tests: making one, and its way to the disk, takes longer than most of them."""
    made = postgres.create_database("fenced")
    with psycopg.connect(made, autocommit=True) as db:
        db.execute(f"CREATE ROLE {APP} LOGIN".encode())
    return made


@pytest.fixture
def dsn(home: str) -> str:
    """An application's database, for a superuser; the role ``APP`` is none, and owns nothing."""
    with psycopg.connect(home, autocommit=True) as db:
        for statement in (*RESET, *TABLES):
            db.execute(statement.encode())
        assert db.execute("SELECT count(*) FROM pg_event_trigger").fetchall() == [(0,)]
    return home


@pytest.fixture
def fence(dsn: str) -> Iterator[PostgresFence]:
    made = PostgresFence(dsn)
    yield made
    made.release()
