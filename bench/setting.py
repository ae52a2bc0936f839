"""What the measurements share: servers, sidecars in processes of their own, and the table that is printed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.e2e.sidecars import Sidecar
from tests.servers import Postgres, postgres_bin

WAIT_SECONDS = 900


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="replicator-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def server(path: Path, **settings: str) -> Iterator[Postgres]:
    """A running server."""
    postgres = Postgres(path, settings={"fsync": "on", "shared_buffers": "512MB", "max_wal_size": "8GB", **settings})
    postgres.create()
    postgres.start()
    try:
        yield postgres
    finally:
        postgres.stop()


@contextlib.contextmanager
def running(*sidecars: Sidecar) -> Iterator[None]:
    """Sidecars that run within the block."""
    for sidecar in sidecars:
        sidecar.start()
    try:
        yield
    finally:
        for sidecar in sidecars:
            sidecar.end()


def pgbench(postgres: Postgres, database: str, *arguments: str) -> None:
    """Run pgbench to its end."""
    command = [str(postgres_bin() / "pgbench"), *arguments, database]
    subprocess.run(command, env=postgres.environment, check=True, capture_output=True)


def seconds_until(done: Callable[[], bool], every: float = 0.02) -> float:
    """How long it takes until ``done``."""
    started = time.monotonic()
    while not done():
        if time.monotonic() - started > WAIT_SECONDS:
            raise TimeoutError("it did not get there")
        time.sleep(every)
    return time.monotonic() - started


def resident_bytes(pid: int) -> int:
    """The most memory that a process has had resident so far (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LookupError("the kernel does not tell VmHWM")


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output."""
    cells = [list(map(str, row)) for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title} (Python {sys.version.split()[0]})")
    for number, row in enumerate(cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    sys.stdout.flush()
