"""The command line is a contract: exit codes, places and cures, no tracebacks, an example in each verb's help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from replicator import __version__
from replicator.ops.cli import VERBS, main

EXAMPLES = Path(__file__).parents[3] / "config"


def test_help_names_every_verb() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for verb, does in VERBS.items():
        assert verb in result.output
        assert does.split(",")[0][:40] in result.output


def verbs() -> Iterator[list[str]]:
    """Every verb, and every verb within one."""
    context = click.Context(main)
    for verb in VERBS:
        command = main.get_command(context, verb)
        if isinstance(command, click.Group):
            yield from ([verb, name] for name in command.list_commands(context))
        else:
            yield [verb]


@pytest.mark.parametrize("verb", list(verbs()), ids=" ".join)
def test_every_verb_has_help_with_an_example(verb: list[str]) -> None:
    result = CliRunner().invoke(main, [*verb, "--help"])
    assert result.exit_code == 0
    assert f"\n    replicator {' '.join(verb)}" in result.output.split("Example")[1]


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"replicator, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["staus"], "Did you mean 'status'?"),
        (["fly"], "No such"),
        (["status", "--jsn"], "--json"),
        (["status"], "neither CONFIG nor --url"),
        (["status", "nowhere.toml"], "nowhere.toml: the file cannot be read"),
        (["status", "--url", "ftp://x"], "ftp://x"),
        (["status", "--url", "http://[", "--json"], "no address"),
        (["status", "--url", "https://127.0.0.1:1", "--ca", "nowhere.pem"], "--ca nowhere.pem"),
    ],
)
def test_wrong_usage_is_exit_2_with_place_and_cure(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert told in result.output
    assert result.output.startswith(("Error:", "Usage:"))


def test_a_wrong_configuration_is_exit_2_with_line_and_cure(tmp_path: Path) -> None:
    file = tmp_path / "region.toml"
    file.write_text((EXAMPLES / "embedded-primary.toml").read_text() + '\n[setle]\nwindow = "2s"\n')
    result = CliRunner().invoke(main, ["status", str(file)])
    assert result.exit_code == 2
    assert f"{file}, line 27: [setle]: this key is not known [bad_config]" in result.output
    assert "Cure: did you mean 'settle'?" in result.output


def test_a_verb_is_imported_when_it_is_used_and_heavy_libraries_not_before() -> None:
    code = (
        "import sys, replicator.ops.cli\n"
        "try: replicator.ops.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('httpx', 'pydantic', 'rich.table', 'psycopg', 'trio') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
