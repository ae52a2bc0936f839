"""Ctrl-C before a verb has begun its work: the process ends as a shell expects it, and has nothing ugly to say."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from replicator.ops.cli import main
from tests.servers import free_port

INTERRUPTED = (128 + signal.SIGINT, -signal.SIGINT)  # a shell calls both 130


def heard() -> None:
    """In the child: whoever runs the tests in the background may have had interrupts ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def region(directory: Path) -> Path:
    """A region's configuration."""
    path = directory / "paris.toml"
    path.write_text(
        f'[region]\nname = "paris"\nrole = "primary"\ndata_dir = "data"\n[http]\nlisten = "127.0.0.1:{free_port()}"\n'
        '[source]\nkind = "embedded"\n'
    )
    return path


def interrupted(arguments: list[str], when: str) -> tuple[int, list[str]]:
    """Run a verb and interrupt it as soon as this module has been imported; exit code, and what it said."""
    command = [sys.executable, "-X", "importtime", "-m", "replicator", *arguments]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=heard
    ) as process:
        assert process.stderr is not None
        said = []
        bound = threading.Timer(60, process.kill)
        bound.start()
        for line in process.stderr:
            if not line.startswith("import time:"):
                said.append(line)
            elif line.split("|")[-1].strip() == when:
                process.send_signal(signal.SIGINT)
        bound.cancel()
        return process.wait(60), said


@pytest.mark.parametrize("when", ["replicator.ops", "click", "replicator.errors", "trio._core", "pydantic_core"])
def test_a_sidecar_that_is_interrupted_while_it_starts(tmp_path: Path, when: str) -> None:
    code, said = interrupted(["run", str(region(tmp_path))], when)
    if any("listens at" in line for line in said):  # it was there before the interrupt was: then it stops in order
        assert (code, [line for line in said if " INFO " not in line]) == (0, [])
    else:
        assert (code in INTERRUPTED, said) == (True, [])


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a group"])
def test_any_verb_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    def interrupt(path: Path) -> NoReturn:
        raise BaseExceptionGroup("a nursery", [KeyboardInterrupt()]) if wrapped else KeyboardInterrupt()

    monkeypatch.setattr("replicator.config.load", interrupt)
    for verb in ("preflight", "run"):
        result = CliRunner().invoke(main, [verb, str(region(tmp_path))])
        assert (result.exit_code, result.output) == (130, ""), verb


def test_a_second_interrupt_ends_what_is_stopping(tmp_path: Path) -> None:
    """At once, if it has not stopped by then; no traceback tells of it."""
    command = [sys.executable, "-m", "replicator", "run", str(region(tmp_path))]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=heard
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "listens at" in line or "stopping within" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, -signal.SIGINT)
    assert all(" INFO " in line for line in said), said
