"""The marks of tests are read from their code."""

from __future__ import annotations

import pytest

from tests import marks, servers
from tests.cluster.leases.waiting import patiently
from tests.contracts.replica_kinds import PostgresKind
from tests.e2e.cluster import cluster
from tests.e2e.deployment import Deployment
from tests.etcd import Etcd


def _by_module() -> object:
    return servers.Postgres


def _nested() -> object:
    return [lambda: Etcd]


@pytest.mark.parametrize(
    ("what", "found"),
    [
        (Deployment, {"postgres", "processes"}),
        (cluster, {"processes"}),  # it is handed its etcd
        (_by_module, {"postgres"}),
        (_nested, {"etcd"}),
        (PostgresKind, set()),  # as above
        (patiently, set()),
    ],
)
def test_what_code_reaches(what: object, found: set[str]) -> None:
    assert marks.reached(what) == found


@pytest.mark.parametrize("kind", ["sqlite", "postgres with a word more"])
def test_a_parameter_stands_for_a_server(kind: str, request: pytest.FixtureRequest) -> None:
    assert (request.node.get_closest_marker("postgres") is not None) == kind.startswith("postgres")


def test_a_server_does_not_start_in_a_test_without_its_mark() -> None:
    with pytest.raises(AssertionError, match="no mark 'postgres'"):
        marks.check("postgres")
