"""Servers that tests share, one of each a session; a test takes a database, or a prefix, of its own in it. Marks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests import marks
from tests.etcd import Etcd, running
from tests.servers import Postgres

_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)  # before -m chooses by the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        assert isinstance(item, pytest.Function)
        for mark in sorted(marks.needs(item)):
            item.add_marker(mark)


@pytest.hookimpl(tryfirst=True)  # before fixtures start servers
def pytest_runtest_setup(item: pytest.Item) -> None:
    marks.grant(item)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running server with ``wal_level = logical``."""
    server = Postgres(tmp_path_factory.mktemp("postgres") / "server")
    server.create()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def new_database(postgres: Postgres) -> Callable[[], str]:
    """Makes an empty database and gives its dsn, as often as asked."""
    return lambda: postgres.create_database(f"test_{next(_numbers)}")


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A running lease store; a test takes a prefix of its own in it, and leaves the server alone."""
    with running(Etcd(tmp_path_factory.mktemp("etcd") / "server")) as server:
        yield server
