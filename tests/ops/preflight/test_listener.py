"""The address and the certificate are looked at as clients will meet them."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from replicator.ops.preflight.listener import check_listener
from replicator.transport.server import Listen
from tests.servers import free_port

HERE = Path(__file__).parent
GOOD = HERE.parent / "cli" / "paris.pem"
EXPIRED = HERE / "expired.pem"  # a key and its self-signed certificate of January 2020; for these tests only
LOCKED = HERE / "locked.pem"  # the same, the key with a password


def levels(listen: Listen) -> list[tuple[str, str]]:
    """Level and text of each finding; all that is not ok has a cure."""
    findings = list(check_listener(listen))
    assert all(finding.cure or finding.level == "ok" for finding in findings)
    return [(finding.level, finding.what) for finding in findings]


def test_a_free_address_is_ok_and_stays_free() -> None:
    listen = Listen("127.0.0.1", free_port())
    assert levels(listen) == levels(listen) == [("ok", f"[http] listen = {listen.address} is free")]


def test_an_address_in_use_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        ((level, what),) = levels(Listen("127.0.0.1", holder.getsockname()[1]))
    assert level == "fail"
    assert "cannot_listen" in what


def test_a_certificate_with_its_key_is_ok() -> None:
    _, (level, what) = levels(Listen("127.0.0.1", free_port(), GOOD, GOOD))
    assert level == "ok"
    assert "valid until Jan  1 00:00:00 2120 GMT" in what


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        (GOOD, EXPIRED, "key values mismatch"),
        (EXPIRED, EXPIRED, "clients refuse it: certificate has expired"),
        (LOCKED, LOCKED, "not pem"),
        (Path(__file__), GOOD, "not pem"),
        (HERE / "nowhere.pem", GOOD, "No such file"),
    ],
)
def test_a_certificate_that_will_not_do_fails(certificate: Path, key: Path, told: str) -> None:
    _, (level, what) = levels(Listen("127.0.0.1", free_port(), certificate, key))
    assert level == "fail"
    assert told in what


def test_a_certificate_is_for_the_name_that_the_other_regions_use() -> None:
    listen = Listen("127.0.0.1", free_port(), GOOD, GOOD)
    assert [finding.level for finding in check_listener(listen, host="paris.example")] == ["ok", "ok"]
    *_, found = check_listener(listen, host="tokyo.example")
    assert found.level == "fail"
    assert "the other regions refuse it: Hostname mismatch" in found.what
    assert "a certificate for tokyo.example" in found.cure


def test_a_certificate_that_ends_soon_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: ssl.cert_time_to_seconds("Dec 10 00:00:00 2119 GMT"))
    _, (level, what) = levels(Listen("127.0.0.1", free_port(), GOOD, GOOD))
    assert (level, what.split(": ")[-1]) == ("warn", "valid until Jan  1 00:00:00 2120 GMT")


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        (Listen("0.0.0.0", free_port()), "whoever reaches it may read the ledger"),
        (Listen("0.0.0.0", free_port(), token="secret"), "without encryption"),
        (Listen("0.0.0.0", free_port(), GOOD, GOOD, "secret"), ""),
        (Listen("localhost", free_port()), ""),
    ],
)
def test_an_open_door_is_told(listen: Listen, told: str) -> None:
    warned = [what for level, what in levels(listen) if level == "warn"]
    assert len(warned) == bool(told)
    assert told in "".join(warned)
    assert "secret" not in str(warned)
