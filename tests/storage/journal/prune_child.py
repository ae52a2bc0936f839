"""A process that prunes a journal and is killed at a named step; run as a module by ``test_pruning``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from replicator.storage.journal.pruning import remove_pages, sweep_parts
from replicator.storage.journal.store import Journal

STRAND = "main"


def prune(path: Path, until: int, kill_at: str = "", occurrence: int = 1) -> None:
    """Remove everything up to ``until``, and what then belongs to nobody."""
    left = occurrence

    def probe(step: str) -> None:
        nonlocal left
        if step == kill_at:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    journal = Journal(path)
    journal.open()
    while journal.base(STRAND).sequence < until:
        remove_pages(journal, STRAND, until, probe)
    while sweep_parts(journal, STRAND, probe):
        pass
    journal.close()


def main(root: Path, until: int, cells: list[str]) -> None:
    """Every cell ``step/occurrence`` in a directory and a child of its own; prints how each child ended."""
    for cell in cells:
        step, occurrence = cell.split("/")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                prune(root / cell.replace(" ", "-").replace("/", "-") / "journal.db", until, step, int(occurrence))
                code = 0
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
