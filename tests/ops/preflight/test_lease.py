"""What preflight says of the lease's store, with real ones; it leaves them as they were."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio

from replicator.cluster.leases.etcd import EtcdLease, EtcdOptions
from replicator.cluster.leases.static import StaticLease
from replicator.config import Config, parse
from replicator.config.finding import Finding
from replicator.format.position import Position
from replicator.ops.preflight.lease import check_lease
from tests.etcd import TLS, Etcd, running
from tests.ops.preflight.test_checks import Findings, not_root, primary
from tests.ops.preflight.tree import tree
from tests.servers import free_port

REGION = '[region]\nname = "paris"\nrole = "primary"\ndata_dir = "data"\n[source]\nkind = "embedded"\n[lease]\n'
HEAD = Position("main", 3, 10, bytes(32))
_numbers = itertools.count(1)


def configured(directory: Path, lease: str) -> Config:
    return parse(REGION + lease, directory / "region.toml", {})


def looked(directory: Path, lease: str, head: Position = HEAD) -> list[Finding]:
    findings = list(check_lease(configured(directory, lease), head))
    assert all(finding.cure or finding.level == "ok" for finding in findings)
    return findings


def of(findings: list[Finding], level: str) -> list[str]:
    return [finding.what for finding in findings if finding.level == level]


def section(*servers: Etcd | str, prefix: str = "/replicator", more: str = "") -> str:
    urls = ", ".join(f'"{server.url if isinstance(server, Etcd) else server}"' for server in servers)
    return f'kind = "etcd"\nendpoints = [{urls}]\nprefix = "{prefix}"\n{more}'


@pytest.fixture
def prefix() -> str:
    return f"/preflight-{next(_numbers)}"


def claimed(etcd: Etcd, prefix: str, epoch: int) -> None:
    async def claim() -> None:
        lease = EtcdLease(EtcdOptions((etcd.url,), 60, prefix), "main")
        await lease.claim("tokyo", epoch)
        await lease.aclose()

    trio.run(claim)


# -- etcd -------------------------------------------------------------------------------------------------------------


def test_a_store_that_can_be_used_says_who_holds_it(etcd: Etcd, tmp_path: Path, prefix: str) -> None:
    claimed(etcd, prefix, 3)
    before = etcd.ctl("get", "--prefix", "/"), etcd.ctl("lease", "list")
    findings = looked(tmp_path, section(etcd, prefix=prefix))
    assert (etcd.ctl("get", "--prefix", "/"), etcd.ctl("lease", "list")) == before
    assert of(findings, "fail") == []
    assert any("tokyo holds it in epoch 3, epochs up to 3 were granted" in what for what in of(findings, "ok"))


def test_an_etcd_that_is_known_to_end_leases_too_soon_is_told(etcd: Etcd, tmp_path: Path, prefix: str) -> None:
    is_old = etcd.version < (3, 5, 13)
    warnings = of(looked(tmp_path, section(etcd, prefix=prefix)), "warn")
    assert any("may end a lease that was renewed" in what for what in warnings) == is_old


def test_a_store_that_was_set_back_is_told(etcd: Etcd, tmp_path: Path, prefix: str) -> None:
    claimed(etcd, prefix, 2)
    warnings = of(looked(tmp_path, section(etcd, prefix=prefix)), "warn")
    assert any("granted is 2, the journal of main is in 3" in what for what in warnings)


def test_one_endpoint_of_several_may_be_down_and_all_may_not(etcd: Etcd, tmp_path: Path, prefix: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    findings = looked(tmp_path, section(etcd, nobody, prefix=prefix))
    assert of(findings, "fail") == []
    assert any(nobody in what for what in of(findings, "warn"))
    (failure,) = of(looked(tmp_path, section(nobody, prefix=prefix)), "fail")
    assert "lease_store_unreachable" in failure


def test_endpoints_of_two_clusters_are_told(etcd: Etcd, tmp_path: Path, prefix: str) -> None:
    with running(Etcd(tmp_path / "other")) as other:
        failures = of(looked(tmp_path, section(etcd, other, prefix=prefix)), "fail")
    assert any("different clusters" in what for what in failures)


def test_a_member_without_its_majority_is_told(tmp_path: Path) -> None:
    alone, missing = Etcd(tmp_path / "one"), Etcd(tmp_path / "two", name="two")
    alone.members = [alone, missing]
    try:
        alone.start(wait=False)
        alone.wait_for_port()
        failures = of(looked(tmp_path, section(alone)), "fail")
        assert failures
        assert all("lease" in what for what in failures)
    finally:
        alone.stop()


def test_what_is_no_etcd_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port := free_port())]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=tmp_path) as server:
        try:
            failures: list[str] = []
            while not any("no answer of etcd" in what for what in failures):
                failures = of(looked(tmp_path, section(f"http://127.0.0.1:{port}")), "fail")
        finally:
            server.kill()


def test_a_user_without_the_right_to_write_is_told(tmp_path: Path) -> None:
    with running(Etcd(tmp_path / "server")) as server:
        server.ctl("user", "add", "root:secret")
        server.ctl("user", "add", "paris:sesame")
        server.ctl("role", "add", "reader")
        server.ctl("role", "grant-permission", "reader", "--prefix=true", "read", "/replicator/")
        server.ctl("user", "grant-role", "root", "root")
        server.ctl("user", "grant-role", "paris", "reader")
        server.ctl("auth", "enable")
        findings = looked(tmp_path, section(server, more='user = "paris"\npassword = "sesame"\n'))
        (failure,) = [finding for finding in findings if finding.level == "fail"]
        assert "lease_store_forbidden" in failure.what
        assert failure.cure == "etcdctl role grant-permission ROLE --prefix=true readwrite /replicator/"
        rights = ("role", "grant-permission", "reader", "--prefix=true", "readwrite", "/replicator/")
        server.ctl(*rights, user="root:secret")
        assert of(looked(tmp_path, section(server, more='user = "paris"\npassword = "sesame"\n')), "fail") == []
        findings = looked(tmp_path, section(server, more='user = "paris"\npassword = "SESAME-1"\n'))
        assert any("lease_store_unauthorised" in what for what in of(findings, "fail"))
        assert "SESAME-1" not in str(findings)


def test_tls_with_a_wrong_authority_is_told(tmp_path: Path) -> None:
    own = f'certificate = "{TLS / "client.pem"}"\nkey = "{TLS / "client.key"}"\n'
    with running(Etcd(tmp_path / "server", tls=True)) as server:
        right = looked(tmp_path, section(server, more=f'ca = "{TLS / "ca.pem"}"\n{own}'))
        wrong = looked(tmp_path, section(server, more=f'ca = "{TLS / "other.pem"}"\n{own}'))
    assert of(right, "fail") == []
    (failure,) = of(wrong, "fail")
    assert "lease_store_untrusted" in failure


def test_an_unencrypted_way_to_another_machine_is_told(tmp_path: Path) -> None:
    nowhere = "http://etcd.invalid:2379"
    warnings = of(looked(tmp_path, section(nowhere)), "warn")
    assert any("claims travel unencrypted" in what for what in warnings)
    warnings = of(looked(tmp_path, section(nowhere, more='user = "paris"\npassword = "sesame"\n')), "warn")
    assert any("the password travels unencrypted" in what for what in warnings)


# -- a file -----------------------------------------------------------------------------------------------------------


def test_a_shared_file_says_who_holds_it(tmp_path: Path) -> None:
    lease = StaticLease(tmp_path / "lease.json", "main", 60.0)
    trio.run(lease.claim, "tokyo", 4)
    before = tree(tmp_path)
    findings = looked(tmp_path, 'kind = "static"\npath = "lease.json"\n')
    assert tree(tmp_path) == before
    assert [finding.level for finding in findings] == ["ok"]
    assert "tokyo holds it in epoch 4" in findings[0].what


def test_a_shared_file_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    findings = looked(tmp_path, 'kind = "static"\npath = "made/later/lease.json"\n')
    assert [finding.level for finding in findings] == ["ok"]
    assert list(tmp_path.iterdir()) == []


def test_by_hand_it_is_told_that_nothing_but_a_person_guards_it(tmp_path: Path) -> None:
    (warning,) = of(looked(tmp_path, 'kind = "static"\n'), "warn")
    assert "nobody but a person" in warning


def test_a_file_that_no_sidecar_has_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("{}")
    (failure,) = of(looked(tmp_path, 'kind = "static"\npath = "lease.json"\n'), "fail")
    assert "lease_file_garbled" in failure


def test_files_of_another_user_are_told(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to others
        directory = Path(name)
        lease = StaticLease(directory / "lease.json", "main", 60.0)
        trio.run(lease.claim, "tokyo", 4)
        for file in directory.iterdir():
            file.chmod(0o444)
        directory.chmod(0o777)
        with not_root():
            (failure,) = of(looked(directory, 'kind = "static"\npath = "lease.json"\n'), "fail")
    assert "files that cannot be written: lease.json, lease.json.lock" in failure


# -- the verb ---------------------------------------------------------------------------------------------------------


def test_the_verb_looks_at_it_and_changes_nothing(tmp_path: Path, etcd: Etcd, prefix: str) -> None:
    region = primary(tmp_path, sections=f'[source]\nkind = "embedded"\n[lease]\n{section(etcd, prefix=prefix)}')
    findings = Findings(region)
    assert findings.exit_code == 0, findings.all
    assert any(f"[lease] {prefix}/main can be used; nobody holds it" in what for what in findings.of("ok"))
