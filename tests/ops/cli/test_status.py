"""``status`` and ``history`` against a served region: what they print, their exit codes, and what they refuse."""

from __future__ import annotations

import http.server
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from replicator.ops.cli import main
from replicator.status.json import history_json, status_json
from replicator.status.model import Snapshot
from tests.servers import free_port
from tests.status import samples

CERTIFICATE = Path(__file__).parent / "paris.pem"  # for paris.example, self-signed, with its key; for these tests only


@contextmanager
def answering(status: int, body: bytes, token: str | None = None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that gives this answer to every GET; its URL."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = token is None or self.headers.get("Authorization") == f"Bearer {token}"
            self.send_response(status if allowed else 401)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not into the test's output."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # seconds until it sees the shutdown
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "160", **(environment or {})}, catch_exceptions=False)


def status_of(snapshot: Snapshot, *options: str) -> Result:
    with answering(200, json.dumps(status_json(snapshot)).encode()) as url:
        return run("status", "--url", url, *options)


@pytest.mark.parametrize(
    ("name", "exit_code", "shown"),
    [
        ("healthy", 0, ["tokyo  ready  replica, follows https://paris.example:7400", "60 blocks, 500 ms behind"]),
        (
            "cut_off",
            1,
            [
                "not ready",
                "connection refused [primary_unreachable]",
                "cure: start the primary's sidecar, or correct [follow] primary",
                "gap 104,191 to 104,193: requested, open for 2 min 1 s",
            ],
        ),
        ("halted", 1, ["what holds it up: apply halted: the table <wallets>", "cure: drop or rename the table"]),
        (
            "quarantining",
            0,
            [
                "quarantine: 5 statements are set aside, and readers do not see what they do: wallets (3 keys), ",
                "cure: replicator quarantine CONFIG says why",
            ],
        ),
        ("primary", 0, ["at the head", "follower virginia: sent up to 104,150 of main"]),
        ("copying", 1, ["120,000 of about 1,000,000 rows", "head ?, received ?"]),
    ],
)
def test_what_is_printed_and_the_exit_code(name: str, exit_code: int, shown: list[str]) -> None:
    result = status_of(getattr(samples, name)())
    assert result.exit_code == exit_code
    for text in shown:
        assert text in result.output


def test_json_is_the_answer_as_it_is() -> None:
    result = status_of(samples.cut_off(), "--json")
    assert json.loads(result.output) == status_json(samples.cut_off())
    assert result.exit_code == 1


def test_the_address_and_the_token_come_from_the_configuration(tmp_path: Path) -> None:
    with answering(200, json.dumps(status_json(samples.healthy())).encode(), token="from-the-file") as url:
        (tmp_path / "token").write_text("from-the-file\n")
        config = tmp_path / "region.toml"
        config.write_text(
            '[region]\nname = "tokyo"\nrole = "primary"\ndata_dir = "data"\n[source]\nkind = "embedded"\n'
            f'[http]\nlisten = "{url.removeprefix("http://")}"\ntoken = {{ file = "token" }}\n'
        )
        assert run("status", str(config)).exit_code == 0
        assert run("status", str(config), "--url", url).exit_code == 0
        refused = run("status", "--url", url)
        assert refused.exit_code == 1
        assert "REPLICATOR_TOKEN" in refused.output
        assert run("status", "--url", url, environment={"REPLICATOR_TOKEN": "from-the-file"}).exit_code == 0


def test_over_tls_the_certificate_of_the_configuration_is_trusted_and_no_other(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    with answering(200, json.dumps(status_json(samples.healthy())).encode(), tls=tls) as url:
        config = tmp_path / "region.toml"
        config.write_text(
            '[region]\nname = "tokyo"\nrole = "primary"\ndata_dir = "data"\n[source]\nkind = "embedded"\n'
            f'[http]\nlisten = "{url.removeprefix("https://")}"\ncertificate = "{CERTIFICATE}"\nkey = "{CERTIFICATE}"\n'
        )
        assert run("status", str(config)).exit_code == 0
        unknown = run("status", "--url", url)
        assert unknown.exit_code == 1
        assert "CERTIFICATE_VERIFY_FAILED" in unknown.output
        other_host = run("status", "--url", url, "--ca", str(CERTIFICATE))
        assert other_host.exit_code == 1
        assert "mismatch" in other_host.output


def test_a_sidecar_that_does_not_run_is_exit_1_with_the_cure() -> None:
    result = run("status", "--url", f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == 1
    assert "[unreachable]" in result.output
    assert "Cure: start the sidecar" in result.output


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"[" * 100_000),
        (200, b"[]"),
        (200, b"null"),
        (200, b"{}"),
        (200, b'{"ready": true}'),
        (200, b'{"ready": true, "region": 1, "role": 2, "primary": 3, "blocked": 4, "strands": 5}'),
        (200, b"\xff\xfe"),
        (200, b" " * 17_000_000),
    ],
)
def test_an_answer_that_is_no_status_is_refused_and_not_ready(status: int, body: bytes) -> None:
    with answering(status, body) as url:
        result = run("status", "--url", url)
    assert result.exit_code == 1
    assert "[bad_answer]" in result.output


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (500, b'{"reason": "internal"}'), (502, b"<html>")])
def test_a_refusal_that_is_not_a_sidecars_own_is_told_as_such(status: int, body: bytes) -> None:
    with answering(status, body) as url:
        result = run("status", "--url", url)
    assert result.exit_code == 1
    assert f"HTTP {status}, and no sidecar's reason [refused]" in result.output
    assert "Cure: " in result.output


def test_names_do_not_steer_the_terminal() -> None:
    body = status_json(samples.healthy())
    body["region"] = "\x1b[2J[red]tokyo[/red]\x07"
    with answering(200, json.dumps(body).encode()) as url:
        result = run("status", "--url", url)
    assert "[red]tokyo[/red]" in result.output
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


def test_history_is_a_line_for_each_event() -> None:
    body = json.dumps(history_json(samples.healthy().history)).encode()
    with answering(200, body) as url:
        plain, as_json = run("history", "--url", url), run("history", "--url", url, "--json")
    assert plain.output == "2026-09-21T14:13:20.000Z  start  replica  epoch 3  version 0.1.0\n"
    assert json.loads(as_json.output) == json.loads(body)


@pytest.mark.parametrize("body", [b"[1]", b'{"a": 1}', b"5", b'[{"at": 1}]'])
def test_an_answer_that_is_no_history_is_refused(body: bytes) -> None:
    with answering(200, body) as url:
        result = run("history", "--url", url)
    assert result.exit_code == 1
    assert "[bad_answer]" in result.output


def test_a_region_of_a_cluster_says_how_each_region_stands() -> None:
    result = status_of(samples.clustered())
    assert result.exit_code == 0
    for text in (
        "failover, automatic: this region is following; primary yellow",
        "lease: held by paris in epoch 3",
        "order: switchover to tokyo (by ann@desk), 7.5 s left",
        "orphans: 3 that only this region had are sealed and not handled",
    ):
        assert text in result.output
    assert re.search(r"virginia +following .* it has not answered for 12 s", result.output)


def test_an_answer_that_tells_of_no_gaps_is_refused_when_one_is_to_be_explained(tmp_path: Path) -> None:
    config = tmp_path / "region.toml"
    with answering(200, b'{"window_seconds": 2, "gaps": 1}') as url:
        config.write_text(
            '[region]\nname = "tokyo"\nrole = "replica"\ndata_dir = "data"\n[replica]\nkind = "sqlite"\n'
            f'path = "replica.db"\n[follow]\nprimary = "{url}"\n[http]\nlisten = "{url.removeprefix("http://")}"\n'
        )
        result = run("gaps", str(config), "5")
    assert result.exit_code == 1
    assert "[bad_answer]" in result.output
