"""A sidecar whose wall clock can be set: ``python -m tests.e2e.gameday.sidecar OFFSET_FILE CONFIG``.

What a step of the system's clock does to one process, without the rights to set the system's: ``time.time`` and
``time.time_ns`` are moved by the seconds that the file holds, read anew with each call; monotonic clocks go on.
"""

from __future__ import annotations

import os
import runpy
import sys
import time


def move_clock(path: str) -> None:
    """From now on the wall clock is off by what ``path`` holds; by nothing while there is no such file."""
    true_ns = time.time_ns

    def offset_ns() -> int:
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            return int(os.read(file, 40) or b"0") * 1_000_000_000
        finally:
            os.close(file)

    time.time_ns = lambda: true_ns() + offset_ns()
    time.time = lambda: time.time_ns() / 1e9


if __name__ == "__main__":
    move_clock(sys.argv[1])
    sys.argv = ["replicator", "run", sys.argv[2]]
    runpy.run_module("replicator", run_name="__main__")
