"""A process that takes a region back and is killed at its n-th effect; run as a module by ``test_killed``.

Effects are the steps that ``Rewind`` names, and the replica's own calls, before and after each.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replicator.cluster.rejoin.fork import Fork
from replicator.cluster.rejoin.rewind import Rewind
from replicator.errors import Unavailable
from replicator.pipeline.replicas.base import Replica
from replicator.pipeline.replicas.sqlite import SqliteReplica
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.sealed import verified
from replicator.storage.journal.store import Journal

STRAND = "main"
EFFECTS = ("begin", "apply", "undefine", "commit", "quarantine")


class Shim:
    """A replica that tells of each of its effects, before and after."""

    def __init__(self, replica: Replica, probe: Callable[[str], None]) -> None:
        self._replica = replica
        self._probe = probe

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._replica, name)
        if name not in EFFECTS:
            return method

        def told(*arguments: Any) -> Any:
            self._probe(f"before {name}")
            done = method(*arguments)
            self._probe(f"after {name}")
            return done

        return told


def region(home: Path, probe: Callable[[str], None]) -> tuple[Journal, HistoryIndex, Rewind]:
    journal = Journal(home / "journal.sqlite3")
    journal.open()
    history = HistoryIndex(home / "history.sqlite3", journal)
    history.open()
    replica: Any = Shim(SqliteReplica(home / "state.sqlite3"), probe)
    return journal, history, Rewind(DataDir(home), journal, history, replica, STRAND, probe)


def rewind(home: Path, probe: Callable[[str], None] = lambda step: None) -> list[str]:
    """Go back, or go on with it; the effects that there were."""
    steps: list[str] = []

    def told(step: str) -> None:
        steps.append(step)
        probe(step)

    journal, history, rewinding = region(home, told)
    try:
        fork, seal = rewinding.pending(), None
        if fork is None:
            (directory,) = (home / "orphans").iterdir()
            seal = verified(directory)
            fork = Fork(seal.fork, seal.last, seal.theirs)
        rewinding.run(seal, fork)
    finally:
        history.close()
        journal.close()
    return steps


def kill_at(number: int) -> Callable[[str], None]:
    left = number

    def probe(step: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return probe


def fail_at(number: int) -> Callable[[str], None]:
    left = number

    def probe(step: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Unavailable("disk_full", "no room is left to write", place=step)

    return probe


def main(homes: list[Path]) -> None:
    """In the n-th of these homes, die at the n-th effect; prints how each child ended."""
    for number, home in enumerate(homes, 1):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                rewind(home, kill_at(number))
                code = 0
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main([Path(home) for home in sys.argv[1:]])
