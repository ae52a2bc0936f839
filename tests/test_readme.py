"""The README is true: its commands run as printed, in order; its make targets exist; its paths are there.

Two things are replaced: the PostgreSQL ports, by those of servers started for the test, and ``sqlite3``, by Python's
module of that name where the machine has no such program.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.cluster.decisions.states import diagram
from tests.servers import Postgres, postgres_bin

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SQLITE3 = """#!{python}
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]):
    print("|".join(map(str, row)))
"""


def commands(section: str) -> str:
    """All shell blocks of a section, one after another."""
    text = README.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert blocks, f"the section {section!r} has no commands"
    return "".join(blocks)


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
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
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
            code = shell.wait(180)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
        output.seek(0)
        text = output.read()
    assert code == 0, text
    return text


def test_the_embedded_ledger_as_printed(directory: Path) -> None:
    output = run(directory, commands("Try it: the embedded ledger"))
    assert '"document":{"wallet_id":"w1","user_id":"ada","balance":69.5}' in output
    assert '"balance":35.5}' in output
    assert "tokyo: equal at sequence 4" in output
    assert "strand main: whole, 4 blocks" in output


def test_postgresql_as_printed(directory: Path, tmp_path: Path) -> None:
    servers = [Postgres(tmp_path / "primary"), Postgres(tmp_path / "replica")]
    try:
        for server in servers:
            server.create()
            server.start()
        script = commands("PostgreSQL")
        for printed, server in zip(("port=5432", "port=5433"), servers, strict=True):
            script = script.replace(printed, f"port={server.port}")
            for file in (directory / "config").glob("postgres-*.toml"):
                file.write_text(file.read_text().replace(printed, f"port={server.port}"))
        output = run(directory, script)
    finally:
        for server in servers:
            server.stop()
    assert re.search(r"ada\s+\|\s+7", output)
    assert "virginia: equal at sequence" in output


def test_failover_as_printed(directory: Path) -> None:
    output = run(directory, commands("Failover"))
    assert "failover, automatic: this region is following; primary green" in output
    assert "strand main: no orphans are sealed here" in output
    assert "paris leads after" in output
    assert "paris is whole again, by" in output
    for region in ("tokyo", "virginia"):
        assert f"{region}: equal at sequence" in output


def test_the_diagram_is_drawn_from_the_table_of_states() -> None:
    (drawn,) = re.findall(r"```mermaid\n(.*?)\n```", README, re.DOTALL)
    assert drawn == diagram()


@pytest.mark.parametrize("target", ["demo", "test", "bench", "simulate"])
def test_the_make_targets_are_there(target: str) -> None:
    assert f"make {target}" in README
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_files_that_are_named_are_there() -> None:
    named = re.findall(r"`([a-z_]+(?:/[a-zA-Z_.]+)*(?:/|\.(?:py|md|toml)))`", README)
    assert len(named) > 25
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "replicator" / name).exists())]
    assert not missing
