"""The commands of the documents run as printed, in order; what each block is, is told in ``pages``.

Three things are replaced: the PostgreSQL ports, by those of servers started for the test; ``replicator`` and
``python3``, by those of this environment; ``sqlite3``, by Python's module of that name where the machine has no such
program.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.config import load
from replicator.config.load import parse
from replicator.ops.drills.plan_file import parse_plan
from tests.docs.pages import LANGUAGES, ROOT, blocks, documents, sessions
from tests.servers import Postgres, postgres_bin

LIMIT_SECONDS = 300
SQLITE3 = """#!{python}
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]):
    print("|".join(map(str, row)))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with config/ in it, and the programs of this environment on the PATH; what was started is ended."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "replicator").write_text(f'#!/bin/sh\nexec {sys.executable} -m replicator "$@"\n')
    (programs / "python3").symlink_to(sys.executable)
    if not shutil.which("sqlite3"):
        (programs / "sqlite3").write_text(SQLITE3.format(python=sys.executable))
    for program in programs.iterdir():
        program.chmod(0o755)
    return tmp_path


def run(directory: Path, script: str) -> str:
    """Run a script as a person would; its output. What it left running is ended."""
    path = f"{directory / 'bin'}:{postgres_bin()}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(directory / "state")}
    with (directory / "output").open("w+") as output:
        shell = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script],
            cwd=directory,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(LIMIT_SECONDS)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
        output.seek(0)
        text = output.read()
    assert code == 0, text
    return text


@pytest.fixture(scope="module")
def script() -> Callable[[str], str]:
    """The script that begins with a page."""
    found = sessions()
    return lambda page: found[page][1]


def test_every_session_is_run_by_a_test_here() -> None:
    how = {page: kind.split(",")[0] for page, (kind, _) in sessions().items()}
    assert how == {
        "README.md": "alone",
        "docs/quickstart.md": "alone",
        "docs/concepts/failover.md": "alone",
        "docs/postgres.md": "with two PostgreSQL servers",
    }


def test_the_example_of_the_readme(directory: Path, script: Callable[[str], str]) -> None:
    output = run(directory, script("README.md"))
    assert '"balance":100}' in output
    assert "tokyo: equal at sequence" in output


def test_the_quickstart_and_what_goes_on_from_it(directory: Path, script: Callable[[str], str]) -> None:
    output = run(directory, script("docs/quickstart.md"))
    assert '"document":{"wallet_id":"w1","user_id":"ada","balance":69.5}' in output
    assert '"balance":35.5}' in output
    assert output.count("tokyo: equal at sequence 4") >= 2
    assert "strand main: whole, 4 blocks" in output
    assert "replicator_verified_sequence" in output


def test_postgresql(directory: Path, tmp_path: Path, script: Callable[[str], str]) -> None:
    servers = [Postgres(tmp_path / "primary"), Postgres(tmp_path / "replica")]
    try:
        for server in servers:
            server.create()
            server.start()
        commands = script("docs/postgres.md")
        for printed, server in zip(("port=5432", "port=5433"), servers, strict=True):
            commands = commands.replace(printed, f"port={server.port}")
            for file in (directory / "config").glob("postgres-*.toml"):
                file.write_text(file.read_text().replace(printed, f"port={server.port}"))
        output = run(directory, commands)
    finally:
        for server in servers:
            server.stop()
    assert re.search(r"ada\s+\|\s+7", output)
    assert "virginia: equal at sequence" in output


def test_failover_and_the_drills_that_go_on_from_it(directory: Path, script: Callable[[str], str]) -> None:
    output = run(directory, script("docs/concepts/failover.md"))
    assert "failover, automatic: this region is following; primary green" in output
    assert "strand main: no orphans are sealed here" in output
    assert "paris leads after" in output
    assert "paris is whole again, by" in output
    for region in ("tokyo", "virginia"):
        assert f"{region}: equal at sequence" in output


def test_every_block_has_a_language_that_the_tests_know() -> None:
    for name, text in documents().items():
        for block in blocks(text) if name != "settle_buffer/README.md" else ():  # that one has tests of its own
            assert block.language in LANGUAGES, f"{name}: {block.language!r}\n{block.text}"
            assert block.language != "sql" or block.words == "in a database", f"{name}: how is it run?\n{block.text}"


@pytest.mark.parametrize(
    "sql", [block.text for text in documents().values() for block in blocks(text) if block.language == "sql"]
)
def test_sql_runs(sql: str, new_database: Callable[[], str]) -> None:
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute(sql.encode())


def _toml() -> list[tuple[str, str]]:
    return [(name, b.text) for name, text in documents().items() for b in blocks(text) if b.language == "toml"]


@pytest.mark.parametrize(("name", "text"), _toml())
def test_configurations_are_read(name: str, text: str, tmp_path: Path) -> None:
    """A whole file as it is; sections on top of a file of ``config/`` that they fit, or of a plan for drills."""
    fields = tomllib.loads(text)
    if "region" in fields:
        parse(text, tmp_path / "region.toml", {})
        return
    if any(_fits(base, fields) for base in sorted((ROOT / "config").glob("*.toml"))):
        return
    plan = (ROOT / "config" / "drills" / "switchover.toml").read_text()
    parse_plan(f"{plan}\n{text}", tmp_path / "plan.toml", dict.fromkeys(re.findall(r'env = "(\w+)"', text), "x"))


def _fits(base: Path, fields: dict[str, Any]) -> bool:
    config = load(base, {})
    for section, values in fields.items():
        known = getattr(config, section, None)
        if known is None:
            return False
        data = {**known.model_dump(by_alias=True, exclude_unset=True), **values}
        type(known).model_validate({k: v for k, v in data.items() if k in values or k == "kind"})
    return True


def test_json_is_json() -> None:
    for text in documents().values():
        for block in blocks(text):
            if block.language == "json":
                json.loads(block.text)
