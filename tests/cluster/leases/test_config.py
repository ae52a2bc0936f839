"""``[lease]`` as operators write it: what is read, what is refused and with which cure, and the part that is built."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio

from replicator.cluster.leases import etcd, static
from replicator.cluster.leases.base import LeaseView
from replicator.config import Config, EtcdLeaseSettings, StaticLeaseSettings, parse
from replicator.errors import ConfigError
from replicator.runtime import wiring
from tests.etcd import Etcd

REGION = '[region]\nname = "paris"\nrole = "primary"\ndata_dir = "data"\n[source]\nkind = "embedded"\n[lease]\n'
ETCD = 'kind = "etcd"\nendpoints = ["https://etcd-1:2379", "https://etcd-2:2379/"]\n'
STATIC = 'kind = "static"\n'


def read(text: str, directory: Path = Path("/etc"), environment: dict[str, str] | None = None) -> Config:
    return parse(REGION + text, directory / "region.toml", environment or {})


def test_a_region_without_the_section_has_no_lease() -> None:
    assert parse(REGION.removesuffix("[lease]\n"), "/etc/region.toml", {}).lease is None


def test_etcd_with_all_keys(tmp_path: Path) -> None:
    for name in ("ca.pem", "own.pem", "own.key"):
        (tmp_path / name).touch()
    text = ETCD + 'ttl = "5s"\nclock_error = 0.02\nmargin = "200ms"\nprefix = "/ledger/eu"\n'
    text += 'user = "paris"\npassword = { env = "ETCD" }\nca = "ca.pem"\ncertificate = "own.pem"\nkey = "own.key"\n'
    config = read(text, tmp_path, {"ETCD": "sesame"})
    lease = config.lease
    assert isinstance(lease, EtcdLeaseSettings)
    assert (lease.ttl_seconds, lease.clock_error, lease.margin_seconds) == (5.0, 0.02, 0.2)
    assert "sesame" not in repr(config)
    options = wiring.etcd_options(lease)
    assert options == etcd.EtcdOptions(
        ("https://etcd-1:2379", "https://etcd-2:2379"),
        5,
        "/ledger/eu",
        "paris",
        "sesame",
        tmp_path / "ca.pem",
        tmp_path / "own.pem",
        tmp_path / "own.key",
    )
    assert "sesame" not in repr(options)


def test_the_part_that_is_built_is_the_one_that_is_named(tmp_path: Path) -> None:
    built = wiring.lease(read(ETCD), "main")
    assert isinstance(built, etcd.EtcdLease)
    assert (built.ttl_seconds, built.exclusive) == (10.0, True)
    shared = wiring.lease(read(STATIC + 'path = "shared.json"\nttl = "2s"\n', tmp_path), "main")
    assert isinstance(shared, static.StaticLease)
    assert (shared.ttl_seconds, shared.exclusive) == (2.0, True)
    by_hand = wiring.lease(read(STATIC, tmp_path), "main")
    assert (by_hand.ttl_seconds, by_hand.exclusive) == (math.inf, False)
    assert list(tmp_path.iterdir()) == [], "building a part does nothing"


def test_a_lease_by_hand_lies_in_the_regions_directory(tmp_path: Path) -> None:
    config = read(STATIC, tmp_path)
    assert isinstance(config.lease, StaticLeaseSettings)
    trio.run(wiring.lease(config, "main").claim, "paris", 1)
    assert (tmp_path / "data" / "lease.json").is_file()


def test_a_lease_in_etcd_works_as_configured(etcd: Etcd) -> None:
    async def claim_and_look() -> LeaseView:
        lease = wiring.lease(
            read(f'kind = "etcd"\nttl = "60s"\nprefix = "/config"\nendpoints = ["{etcd.url}"]\n'), "main"
        )
        await lease.claim("paris", 1)
        view = await lease.look()
        await lease.aclose()
        return view

    holder = trio.run(claim_and_look).holder
    assert holder is not None
    assert holder[:2] == ("paris", 1)
    assert "/config/main/leader" in etcd.ctl("get", "--prefix", "--keys-only", "/config/")


HTTP = 'kind = "etcd"\nendpoints = ["http://etcd:2379"]\n'


@pytest.mark.parametrize(
    ("text", "line", "key", "cure"),
    [
        ('kind = "zookeeper"\n', 8, "kind", "correct"),
        ('kind = "etcd"\n', 7, "endpoints", "add it"),
        ('kind = "etcd"\nendpoints = []\n', 9, "endpoints", "reference"),
        ('kind = "etcd"\nendpoints = ["etcd:2379"]\n', 9, "endpoint", "reference"),
        ('kind = "etcd"\nendpoints = ["https://etcd:2379/v3"]\n', 9, "endpoint", "reference"),
        ('kind = "etcd"\nendpoints = ["https://etcd:99999"]\n', 9, "endpoints", "reference"),
        ('kind = "etcd"\nendpoints = ["https://me:SESAME@etcd:2379"]\n', 9, "credentials", "reference"),
        ('kind = "etcd"\nendpoints = ["https://a:1", "https://a:1"]\n', 9, "twice", "once"),
        (ETCD + "enpoints = []\n", 10, "enpoints", "endpoints"),
        (ETCD + 'prefix = "/a//b"\n', 10, "prefix", "reference"),
        (ETCD + 'user = "paris"\n', 10, "password", "set password"),
        (ETCD + 'password = "SESAME"\n', 10, "user", "set user"),
        (ETCD + 'ca = "nowhere.pem"\n', 10, "no file", "create it"),
        (ETCD + 'certificate = "region.toml"\n', 10, "key", "set key"),
        (HTTP + 'ca = "nowhere.pem"\n', 10, "https", "create it"),
        (ETCD + 'ttl = "2500ms"\n', 10, "whole seconds", '"2s"'),
        (ETCD + 'ttl = "1s"\nmargin = "600ms"\n', 10, "0.39 s would be left", "higher"),
        (ETCD + 'ttl = "1s"\nmargin = "5s"\n', 10, "0 s would be left", "higher"),
        (ETCD + "ttl = 10\n", 10, "duration", "reference"),
        (ETCD + "clock_error = 0.5\n", 10, "clock_error", "reference"),
        (ETCD + "clock_error = -0.1\n", 10, "clock_error", "reference"),
        (STATIC + 'path = "lease.json"\nttl = "500ms"\n', 10, "left", "higher"),
        (STATIC + 'path = "data/journal.sqlite3"\n', 9, "sidecar's own", "another file"),
        (STATIC + 'endpoints = ["https://etcd:2379"]\n', 9, "endpoints", ""),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line_and_cure(text: str, line: int, key: str, cure: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert refused.value.place == f"/etc/region.toml, line {line}"
    assert key in refused.value.message
    assert cure in f"{refused.value.cure} {refused.value.message}"
    assert "SESAME" not in str(refused.value)
