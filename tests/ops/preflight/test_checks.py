"""Preflight with real regions: it finds what would stop a start, names the cure, and changes nothing at all."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from click.testing import CliRunner

from replicator.format.block import Draft
from replicator.format.statement import pack_message
from replicator.ops.cli import main
from replicator.ops.preflight.feed import clock_finding
from replicator.pipeline.replicas.sqlite import SqliteReplica
from replicator.storage.journal.store import Journal
from replicator.storage.sqlite import connect
from tests.e2e.sidecars import Sidecar
from tests.ops.preflight.tree import tree
from tests.servers import Postgres, free_port

EMBEDDED = '[source]\nkind = "embedded"\n\n[[source.tables]]\nname = "wallets"\nkey = "id"\nuser = "user_id"\n'
SQLITE = '[replica]\nkind = "sqlite"\npath = "data/replica.sqlite3"\n'
TOKEN = 'token = "sesame"\n'  # stands right behind [http] listen


class Findings:
    """What ``replicator preflight --json`` told of a region."""

    def __init__(self, region: Sidecar) -> None:
        before = tree(region.directory)
        result = CliRunner().invoke(main, ["preflight", str(region.config), "--json"])
        assert tree(region.directory) == before, "preflight has changed something"
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        answer = json.loads(result.output)
        self.exit_code = result.exit_code
        self.all: list[dict[str, str]] = answer["findings"]
        assert answer["ready"] == (self.exit_code == 0) == (self.of("fail") == [])
        assert all(finding["cure"] or finding["level"] == "ok" for finding in self.all)

    def of(self, level: str) -> list[str]:
        """The texts of one level."""
        return [finding["what"] for finding in self.all if finding["level"] == level]

    def the_failure(self) -> str:
        """The one that there is."""
        (what,) = self.of("fail")
        return what


def primary(directory: Path, name: str = "paris", sections: str = EMBEDDED) -> Sidecar:
    return Sidecar(directory, name, "primary", sections)


def replica(directory: Path, url: str, rest: str = "", sections: str = SQLITE) -> Sidecar:
    return Sidecar(directory, "tokyo", "replica", f'[follow]\nprimary = "{url}"\n{rest}\n{sections}')


def drafts(first: int, last: int) -> list[Any]:
    return [Draft(f"tx{n}", f"0/{n:X}", n * 10, 0, 1, pack_message("n", b"%d" % n)) for n in range(first, last + 1)]


Start = Callable[[Sidecar], Sidecar]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts regions; none of them outlives its test."""
    started: list[Sidecar] = []

    def begin(region: Sidecar) -> Sidecar:
        started.append(region)
        region.start()
        return region

    yield begin
    for region in started:
        region.end()


@pytest.fixture
def running(tmp_path: Path, start: Start) -> Sidecar:
    """An embedded primary that has taken a write."""
    region = start(primary(tmp_path))
    region.reach(lambda status: status["strands"][0]["marks"]["applied"] == 1, "its table")
    document = {"id": "w1", "user_id": "u1", "balance": 1}
    body = {"statements": [{"table": "wallets", "op": "insert", "document": document}]}
    httpx.post(f"{region.url}/v1/transactions", json=body, trust_env=False).raise_for_status()
    return region


# -- the machine and the region itself


def test_a_region_that_has_never_run(tmp_path: Path) -> None:
    found = Findings(primary(tmp_path))
    assert found.exit_code == 0
    told = "\n".join(found.of("ok"))
    for text in (
        "Python 3.",
        "SQLite 3.",
        "data can be made",
        "are free on the disk",
        "is free",
        "wallets can be made",
    ):
        assert text in told


def test_a_running_region_is_not_disturbed_and_its_place_is_taken(running: Sidecar) -> None:
    directory = running.directory
    result = CliRunner().invoke(main, ["preflight", str(running.config), "--json"])
    findings = json.loads(result.output)["findings"]
    assert [f["what"] for f in findings if f["level"] == "fail"] == []
    assert result.exit_code == 0
    warned = [f["what"] for f in findings if f["level"] == "warn"]
    assert f"[region] data_dir = {directory}/data: a sidecar runs on it" in warned
    assert any("is taken, and a sidecar runs" in f["what"] for f in findings if f["level"] == "ok")
    assert running.status() is not None


def test_a_region_that_was_killed_is_read_as_it_lies(running: Sidecar) -> None:
    running.kill()
    assert (running.directory / "data" / "journal.sqlite3-wal").exists()
    found = Findings(running)
    assert found.exit_code == 0
    assert f"{running.directory}/data/journal.sqlite3 ends at sequence 2" in found.of("ok")
    assert "table wallets is as declared" in found.of("ok")


def test_a_region_that_was_stopped_is_read_as_it_lies(running: Sidecar) -> None:
    assert running.stop() == 0
    assert not (running.directory / "data" / "journal.sqlite3-wal").exists()
    found = Findings(running)
    assert found.exit_code == 0
    assert f"{running.directory}/data/journal.sqlite3 ends at sequence 2" in found.of("ok")


def test_a_table_that_is_declared_otherwise_fails(running: Sidecar) -> None:
    running.kill()
    text = running.config.read_text()
    running.config.write_text(text.replace('user = "user_id"', 'user = "owner"'))
    assert Findings(running).the_failure().startswith("[[source.tables]] wallets: it is there with another")


def test_a_file_in_the_place_of_the_directory_fails(tmp_path: Path) -> None:
    region = primary(tmp_path)
    (region.directory / "data").write_text("")
    found = Findings(region)
    assert f"{region.directory}/data is no directory" in found.of("fail")[0]


def test_a_directory_that_cannot_be_written_fails() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's directories are closed to other users
        Path(name).chmod(0o755)
        region = primary(Path(name))
        Findings(region)  # imports what it needs, which another user may not be able to read
        region.directory.chmod(0o555)
        with not_root():
            found = Findings(region)
        region.directory.chmod(0o755)
    assert f"{region.directory} cannot be written" in found.of("fail")[0]


@contextlib.contextmanager
def not_root() -> Iterator[None]:
    """Root may write everywhere: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    nobody = pwd.getpwnam("nobody").pw_uid
    os.setresuid(nobody, nobody, 0)  # access(2) asks for the real user
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_journal_that_was_only_just_made_is_none_yet(tmp_path: Path) -> None:
    region = primary(tmp_path)
    (region.directory / "data").mkdir()
    (region.directory / "data" / "journal.sqlite3").touch()
    assert Findings(region).exit_code == 0


def test_a_journal_that_is_none_fails(tmp_path: Path) -> None:
    region = primary(tmp_path)
    (region.directory / "data").mkdir()
    (region.directory / "data" / "journal.sqlite3").write_bytes(b"not at all a journal" * 100)
    assert "[file_damaged]" in Findings(region).the_failure()


# -- the replica's side


def test_a_replica_whose_primary_answers(running: Sidecar, tmp_path: Path, start: Start) -> None:
    region = replica(tmp_path, running.url)
    found = Findings(region)
    assert found.exit_code == 0, found.of("fail")
    told = "\n".join(found.of("ok"))
    for text in (
        f"[follow] primary = {running.url} answers; this region's sequence 0 is on its chain, which is at 2",
        "clock and this one agree",
        f"{region.directory}/data can be made",
    ):
        assert text in told
    start(region)
    region.reach(lambda status: status["strands"][0]["marks"]["applied"] == 2, "the primary's head")
    region.kill()
    found = Findings(region)
    assert found.exit_code == 0, found.of("fail")
    assert "this region's sequence 2 is on its chain" in "\n".join(found.of("ok"))


def test_a_primary_that_is_not_there_fails(tmp_path: Path) -> None:
    region = replica(tmp_path, f"http://127.0.0.1:{free_port()}")
    found = Findings(region)
    assert "[feed_unreachable]" in found.the_failure()
    assert next(f["cure"] for f in found.all if f["level"] == "fail").startswith("start it")


@pytest.mark.parametrize(("blocks", "reason"), [(1, "diverged"), (2, "diverged"), (3, "ahead")])
def test_another_history_fails(running: Sidecar, tmp_path: Path, blocks: int, reason: str) -> None:
    region = replica(tmp_path, running.url)
    (region.directory / "data").mkdir()
    journal = Journal(region.directory / "data" / "journal.sqlite3")
    journal.open()
    journal.append("main", drafts(1, blocks), 1)
    journal.close()
    assert Findings(region).the_failure().endswith(f"[{reason}]")


def test_another_strand_fails(running: Sidecar, tmp_path: Path) -> None:
    region = replica(tmp_path, running.url)
    region.config.write_text(region.config.read_text().replace('data_dir = "data"', 'data_dir = "data"\nstrand = "eu"'))
    found = Findings(region)
    assert found.the_failure().endswith("[unknown_strand]")
    assert "check [region] strand on both sides" in [finding["cure"] for finding in found.all]


@pytest.mark.parametrize(
    ("given", "level"),
    [('token = "sesame"', "ok"), ('token = "guess"', "fail"), ("", "fail")],
    ids=["right", "wrong", "no"],
)
def test_the_token_is_tried(tmp_path: Path, start: Start, given: str, level: str) -> None:
    guarded = start(primary(tmp_path, sections=TOKEN + EMBEDDED))
    guarded.reach(lambda status: status["strands"][0]["marks"]["applied"] == 1, "its table")
    found = Findings(replica(tmp_path, guarded.url, given))
    if level == "ok":
        assert found.exit_code == 0, found.of("fail")
    else:
        assert "[feed_unauthorised]" in found.the_failure()
    assert "sesame" not in str(found.all)
    assert "guess" not in str(found.all)


def test_a_ca_file_that_is_none_fails(tmp_path: Path) -> None:
    region = replica(tmp_path, f"https://127.0.0.1:{free_port()}", 'ca = "config.toml"')
    assert Findings(region).the_failure().startswith("[follow] ca = ")


def test_rows_in_the_clear_are_told(tmp_path: Path) -> None:
    found = Findings(replica(tmp_path, f"http://ledger.invalid:{free_port()}", 'token = "sesame"'))
    (warned,) = [what for what in found.of("warn") if "encryption" in what]
    assert "rows and token travel without encryption" in warned


@pytest.mark.parametrize(
    ("theirs", "level", "told"),
    [
        (10_000_000, "ok", "agree within 1 s"),
        (9_100_000, "ok", "agree within 1 s"),
        (11_400_000, "ok", "agree within 1 s"),
        (15_000_000, "warn", "4.5 s ahead of this one"),
        (5_000_000, "warn", "5.0 s behind this one"),
    ],
)
def test_clocks(theirs: int, level: str, told: str) -> None:
    finding = clock_finding(theirs, 10_000_000, 10_500_000)
    assert finding.level == level
    assert told in finding.what


def test_a_table_that_stands_in_the_way_fails(running: Sidecar, tmp_path: Path, start: Start) -> None:
    region = replica(tmp_path, running.url)
    start(region)
    region.reach(lambda status: status["strands"][0]["marks"]["applied"] == 2, "the primary's head")
    assert region.stop() == 0
    path = region.directory / "data" / "replica.sqlite3"
    connection = connect(path, synchronous="NORMAL")
    connection.execute("ALTER TABLE wallets ADD COLUMN mine TEXT")
    connection.close()
    failure = Findings(region).the_failure()
    assert "replica table wallets" in failure
    assert "column mine is not the ledger's" in failure


# -- databases

CATALOGUE = (
    "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_proc),"
    " (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_replication_slots),"
    " (SELECT max(oid::int8) FROM pg_class)"
)


def catalogue(dsn: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(CATALOGUE).fetchone()


def test_a_postgres_primary(tmp_path: Path, new_database: Callable[[], str]) -> None:
    dsn = new_database()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE wallets (id int PRIMARY KEY, user_id int)")
    region = primary(tmp_path, sections=f'[source]\nkind = "postgres"\ndsn = "{dsn}"\n')
    before = catalogue(dsn)
    found = Findings(region)
    assert catalogue(dsn) == before
    assert found.exit_code == 0, found.of("fail")
    assert "table public.wallets: keyed on id" in found.of("ok")


def test_a_postgres_primary_that_cannot_be_followed(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "server", {"wal_level": "replica"})
    server.create()
    server.start()
    try:
        region = primary(tmp_path, sections=f'[source]\nkind = "postgres"\ndsn = "{server.dsn()}"\n')
        assert "wal_level is replica" in Findings(region).of("fail")
        server.stop()
        found = Findings(region)
        assert "[postgres_unreachable]" in found.the_failure()
    finally:
        server.stop()


def test_a_postgres_replica(running: Sidecar, tmp_path: Path, start: Start, new_database: Callable[[], str]) -> None:
    dsn = new_database()
    region = replica(tmp_path, running.url, sections=f'[replica]\nkind = "postgres"\ndsn = "{dsn}"\n')
    before = catalogue(dsn)
    found = Findings(region)
    assert catalogue(dsn) == before
    assert found.exit_code == 0, found.of("fail")
    assert any("answers" in what for what in found.of("ok"))
    start(region)
    region.reach(lambda status: status["strands"][0]["marks"]["applied"] == 2, "the primary's head")
    region.kill()
    with psycopg.connect(dsn) as connection:
        connection.execute("ALTER TABLE wallets DROP COLUMN document")
    before = catalogue(dsn)
    assert "column document is missing" in Findings(region).the_failure()
    assert catalogue(dsn) == before


# -- the verb


def test_lines_for_people(tmp_path: Path) -> None:
    region = replica(tmp_path, f"http://127.0.0.1:{free_port()}")
    result = CliRunner().invoke(main, ["preflight", str(region.config)])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    good = [line for line in lines if line.startswith("ok  ")]
    assert lines[0].startswith("ok    Python 3.")
    assert [line for line in lines if line.startswith("fail  ")]
    assert [line for line in lines if line.startswith("      cure: start it")]
    assert lines[-1] == f"{len(good)} ok, 0 to know, 1 to cure before the start"


def test_a_wrong_configuration_is_exit_2(tmp_path: Path) -> None:
    region = primary(tmp_path)
    region.config.write_text(region.config.read_text().replace("data_dir", "data_dri"))
    result = CliRunner().invoke(main, ["preflight", str(region.config)])
    assert result.exit_code == 2
    assert "did you mean 'data_dir'?" in result.output


def test_a_sqlite_replica_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    region = replica(tmp_path, f"http://127.0.0.1:{free_port()}")
    (region.directory / "data").mkdir()
    made = SqliteReplica(region.directory / "data" / "replica.sqlite3")
    made.open()
    made.close()
    assert "[feed_unreachable]" in Findings(region).the_failure()
