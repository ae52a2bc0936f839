"""Preflight of a region of a cluster: what the other regions say, and whether this one could take over from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.sidecars import Sidecar
from tests.ops.preflight.test_checks import EMBEDDED, Findings


def region(directory: Path, name: str, role: str, urls: dict[str, str], rest: str = "") -> Sidecar:
    """A region of the cluster of paris and tokyo. ``urls`` are those that are known; its own is added."""
    made = Sidecar(directory, name, role, "")
    known = ", ".join(f'{other} = "{url}"' for other, url in {**urls, name: made.url}.items())
    with made.config.open("a") as file:
        file.write(f"{EMBEDDED}\n[cluster]\nregions = {{ {known} }}\n{rest}\n")
        if "[lease]" not in rest:
            file.write(f'[lease]\nkind = "static"\npath = "{directory}/lease.json"\nttl = "2s"\nmargin = "100ms"\n')
    return made


@contextlib.contextmanager
def paris(directory: Path) -> Iterator[Sidecar]:
    """One that runs, asks for a token, and waits for one writer's other region."""
    made = region(directory, "paris", "primary", {"tokyo": "http://127.0.0.1:9"}, 'token = "sesame"\n')
    text = made.config.read_text().replace("[source]", 'token = "sesame"\n\n[source]', 1)
    made.config.write_text(text + "[failover]\nacknowledge = 1\n")
    made.start()
    try:
        made.reach(lambda status: status["failover"]["state"] == "primary", "paris leads")
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def leader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with paris(tmp_path_factory.mktemp("leader")) as running:
        yield running


GOOD = 'token = "sesame"\n[failover]\nacknowledge = 1\n'


def test_a_cluster_that_fits(tmp_path: Path, leader: Sidecar) -> None:
    found = Findings(region(tmp_path, "tokyo", "replica", {"paris": leader.url}, GOOD))
    assert found.exit_code == 0
    assert found.of("warn") == []
    assert f"[cluster] paris = {leader.url} answers, and is primary" in found.of("ok")


def test_what_a_replica_lacks_to_lead_is_told_before_it_starts(tmp_path: Path, new_database: Callable[[], str]) -> None:
    dsn = new_database()
    role = f"plain_{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}"
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"CREATE ROLE {role} LOGIN".encode())
        made = Sidecar(tmp_path, "tokyo", "replica", "")
        with made.config.open("a") as file:
            file.write(f'[replica]\nkind = "postgres"\ndsn = "{dsn.replace("user=postgres", f"user={role}")}"\n')
            file.write(f'[cluster]\nregions = {{ paris = "http://127.0.0.1:9", tokyo = "{made.url}" }}\n')
            file.write(f'[lease]\nkind = "static"\npath = "{tmp_path}/lease.json"\n')
        warned = Findings(made).of("warn")
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
    assert "could not be promoted: only a superuser can publish all tables" in warned
    assert "could not be promoted: the role may not replicate" in warned


@pytest.mark.parametrize(
    ("rest", "failure"),
    [
        ('token = "barley"\n', "refuses the token"),
        ("", "refuses the token"),
        (GOOD + '[lease]\nkind = "etcd"\nendpoints = ["http://127.0.0.1:9"]\n', "[lease] is static there and etcd"),
    ],
)
def test_what_would_keep_regions_from_being_a_cluster_fails(
    tmp_path: Path, leader: Sidecar, rest: str, failure: str
) -> None:
    found = Findings(region(tmp_path, "tokyo", "replica", {"paris": leader.url}, rest))
    assert found.exit_code == 1
    assert any(failure in what for what in found.of("fail"))


def test_an_address_of_another_region_fails(tmp_path: Path, leader: Sidecar) -> None:
    found = Findings(region(tmp_path, "tokyo", "replica", {"paris": leader.url, "lima": leader.url + "/."}, GOOD))
    assert any("is the region 'paris'" in what for what in found.of("fail"))
    assert any("the names in [cluster] regions" in what for what in found.of("fail"))


def test_another_rule_there_is_a_warning(tmp_path: Path, leader: Sidecar) -> None:
    rest = 'token = "sesame"\n[failover]\nmode = "automatic"\n'
    found = Findings(region(tmp_path, "tokyo", "replica", {"paris": leader.url}, rest))
    assert found.exit_code == 0
    warned = "\n".join(found.of("warn"))
    assert "[failover] mode is manual there and automatic here" in warned
    assert "[failover] acknowledge is 1 there and 0 here" in warned


def test_the_first_of_them_has_no_others_yet(tmp_path: Path) -> None:
    found = Findings(region(tmp_path, "paris", "primary", {"tokyo": "http://127.0.0.1:9"}))
    assert found.exit_code == 0
    assert any("tokyo = http://127.0.0.1:9 does not answer" in what for what in found.of("warn"))


def test_a_sidecar_without_a_cluster_is_none_of_it(tmp_path: Path) -> None:
    alone = Sidecar(tmp_path, "paris", "primary", EMBEDDED)
    alone.start()
    try:
        alone.reach(lambda status: status["ready"], "it runs")
        found = Findings(region(tmp_path, "tokyo", "replica", {"paris": alone.url}))
        assert "is no region of a cluster" in found.the_failure()
    finally:
        alone.end()


def test_an_own_address_that_only_this_machine_has(tmp_path: Path) -> None:
    found = Findings(region(tmp_path, "paris", "primary", {"tokyo": "http://203.0.113.1:7400"}))
    assert any("sent to their own machine" in what for what in found.of("fail"))
    assert any("unencrypted" in what for what in found.of("warn"))
