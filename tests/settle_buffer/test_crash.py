"""The crash matrix: killed before and after every step of the loop, then the guarantees hold.

Killed with SIGKILL, so the operating system keeps what was written; that ``append`` also reaches the disk is SQLite's
``synchronous=FULL``, which ``test_the_spool_waits_for_the_disk`` looks at.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from settle_buffer import Spool
from tests.settle_buffer import crash_child
from tests.settle_buffer.crash_child import CELLS, ENTRIES, EXPECTED, WAIVED, Log


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The directories that the killed processes left, and how each process ended."""
    root = tmp_path_factory.mktemp("crash")
    run = subprocess.run(
        [sys.executable, "-m", "tests.settle_buffer.crash_child", str(root)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return root, [int(line) for line in run.stdout.split()]


@pytest.mark.parametrize(
    "cell",
    range(len(CELLS)),
    ids=[f"{step}, {nth}{', straight' if config.straight else ''}" for step, nth, config in CELLS],
)
async def test_killed_at(matrix: tuple[Path, list[int]], cell: int) -> None:
    root, codes = matrix
    assert codes[cell] == -signal.SIGKILL, "the step was reached"
    directory = root / str(cell)
    before = Log(directory / "journal").read()
    assert before == EXPECTED[: len(before)]
    late = await crash_child.live(directory, None, CELLS[cell][2])
    assert Log(directory / "journal").read() == EXPECTED
    assert [entry for _, entry in late] == [ENTRIES[74]]
    spool = Spool(directory / "spool")
    waived = [certificate[1:3] for certificate in spool.certificates() if certificate.how == "waived"]
    assert waived == [WAIVED]
    assert list(spool.recover({})) == [], "everything acknowledged is trimmed"
    spool.close()


async def test_killed_in_recovery_too(tmp_path: Path) -> None:
    program = (
        "import sys, trio; from pathlib import Path; from tests.settle_buffer.crash_child import *\n"
        "trio.run(live, Path(sys.argv[1]), Killer(sys.argv[2], 1))\n"
    )
    for step in ("after append", "before recover", "after recover"):
        command = [sys.executable, "-c", program, str(tmp_path), step]
        run = await trio.run_process(command, cwd=Path(__file__).parents[2], check=False)
        assert run.returncode == -signal.SIGKILL
    await crash_child.live(tmp_path, None)
    assert Log(tmp_path / "journal").read() == EXPECTED


def test_the_spool_waits_for_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert spool._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert spool._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
