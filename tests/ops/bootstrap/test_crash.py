"""The crash matrix of bootstrap: killed before and after each of its steps, then called again, and every row is there.

Each region had data of its own, which must still be there beside what replaced it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.config import load
from replicator.errors import Halted
from replicator.pipeline.copies.partial_copy import HALF_COPY, refuse_half
from replicator.pipeline.replicas.sqlite import SqliteReader
from replicator.storage.journal.store import Journal
from tests.e2e.sidecars import Sidecar
from tests.faults.regions import EMBEDDED, Region, follow, sqlite_replica
from tests.ops.bootstrap.crash_child import CELLS, run


@pytest.fixture
def paris(tmp_path: Path) -> Iterator[Region]:
    region = Region(tmp_path, "paris", "primary", EMBEDDED)
    region.start()
    region.reach_sequence("applied", 1)
    yield region
    region.end()


def test_killed_at_any_step_it_ends_whole(paris: Region, tmp_path: Path) -> None:
    old = Region(tmp_path, "old", "replica", follow(paris.url) + sqlite_replica())
    assert paris.write(0, 50).status_code == 200
    old.start()
    old.reach_sequence("applied", 2)
    assert old.stop() == 0
    assert paris.write(1000, 250).status_code == 200
    homes = [
        Sidecar(tmp_path, f"r{number}", "replica", follow(paris.url) + sqlite_replica()) for number in range(len(CELLS))
    ]
    for home in homes:
        shutil.copytree(old.data, home.directory / "data")
        shutil.copy(old.directory / "ledger.db", home.directory)
    command = [sys.executable, "-m", "tests.ops.bootstrap.crash_child", *(str(home.config) for home in homes)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert ended == [str(-signal.SIGKILL)] * len(CELLS), "every step was reached"
    for cell, home in zip(CELLS, homes, strict=True):
        check(cell, home)


def check(cell: str, home: Sidecar) -> None:
    data = load(home.config).region.files
    half = data.partial_copy.exists()
    if half:
        with pytest.raises(Halted, match="not whole yet"):
            refuse_half(data)
    assert half == (cell not in ("before write half", "after remove half")), cell
    if cell == "after remove half":
        with pytest.raises(Halted, match="not empty"):
            run(home.config, replace=False)
    else:
        assert run(home.config, replace=True) == 3, cell
    reader = SqliteReader(home.directory / "ledger.db")
    applied = reader.applied("main")
    assert applied is not None
    assert applied.position.sequence == 3, cell
    assert reader.applied(HALF_COPY) is None, cell
    assert sum(1 for _ in reader.rows("wallets")) == 300, cell
    reader.close()
    journal = Journal(data.journal)
    assert journal.base("main") == applied.position, cell
    journal.close()
    aside = sorted(path.name for path in home.directory.rglob("*replaced-1"))
    assert "ledger.db.replaced-1" in aside, cell
    assert "journal.sqlite3.replaced-1" in aside, cell
    assert not data.partial_copy.exists(), cell
