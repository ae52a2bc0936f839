"""A region that goes back and is killed, or fails, at every one of its effects, ends where one does that was not."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import trio

from replicator.errors import Unavailable
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.sqlite import SqliteReplica
from replicator.storage.journal.store import Journal
from replicator.storage.journal.walk import walk
from tests.cluster.rejoin.chains import digests, sealed
from tests.cluster.rejoin.embedded import Ledger, parted
from tests.cluster.rejoin.rewind_child import STRAND, fail_at, rewind
from tests.contracts.replica_kinds import SqliteKind

INDEXES = {
    "requests.sqlite3": ("request", "indexed"),
    "history.sqlite3": ("indexed", "change", "truncation"),
    "journal.sqlite3": ("page", "part", "definition"),
}


def told(home: Path) -> dict[str, object]:
    """All that a region knows."""
    found: dict[str, object] = {"tables": digests(SqliteKind(home / "state.sqlite3"))}
    for file, tables in INDEXES.items():
        with sqlite3.connect(home / file) as db:
            for table in tables:
                found[f"{file} {table}"] = sorted(db.execute(f"SELECT * FROM {table}"))
        db.close()
    return found


def assert_back(home: Path, right: dict[str, object], position: object) -> None:
    assert told(home) == right
    assert not (home / "rewind.json").exists()
    assert not (home / "spool.sqlite3").exists()
    (directory,) = (home / "orphans").iterdir()
    assert (directory / "spool.sqlite3").read_bytes() == b"what waits"
    journal = Journal(home / "journal.sqlite3")
    journal.open()
    walked = walk(journal, STRAND)
    assert (walked.broken, walked.position) == (None, position)
    replayer = Replayer(journal, replica := SqliteReplica(home / "state.sqlite3"), STRAND, 1 << 20, 100)
    assert replayer.open().position == position
    replica.close()
    journal.close()


async def sealed_home(directory: Path) -> tuple[Path, Ledger]:
    """A region with sealed orphans, and one that stands at the fork."""
    old, new, reference = parted(directory)
    await sealed(old, new)
    while reference.history.indexed(STRAND) < reference.head.sequence:
        reference.history.step(STRAND, reference.head.sequence)
    for ledger in (old, new, reference):
        ledger.close()
    return old.directory, reference


async def test_every_interrupted_prefix(tmp_path: Path) -> None:
    home, reference = await sealed_home(tmp_path)
    right = told(reference.directory)
    reference.open()
    whole = shutil.copytree(home, tmp_path / "whole")
    steps = rewind(whole)
    assert_back(whole, right, reference.head)
    assert len(steps) > 25
    homes = [shutil.copytree(home, tmp_path / f"killed-{number}") for number in range(1, len(steps) + 1)]
    command = [sys.executable, "-m", "tests.cluster.rejoin.rewind_child", *map(str, homes)]
    done = await trio.run_process(command, capture_stdout=True)
    ended = done.stdout.decode().split()
    assert ended == [str(-signal.SIGKILL)] * len(steps), "every step was reached"
    for step, killed in zip(steps, homes, strict=True):
        print(step)
        begun = (killed / "rewind.json").exists()
        assert begun or step in ("before intent", "end"), step
        if step != "end":
            rewind(killed)
        assert_back(killed, right, reference.head)
    reference.close()


async def test_a_failure_at_every_effect(tmp_path: Path) -> None:
    home, reference = await sealed_home(tmp_path)
    right = told(reference.directory)
    reference.open()
    number = 0
    while True:
        number += 1
        failing = shutil.copytree(home, tmp_path / "failing")
        try:
            steps = rewind(failing, fail_at(number))
        except Unavailable:
            if (failing / "rewind.json").exists() or number == 1:
                rewind(failing)
        else:
            assert number == len(steps) + 1
            break
        assert_back(failing, right, reference.head)
        shutil.rmtree(failing)
    reference.close()
