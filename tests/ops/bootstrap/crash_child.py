"""A bootstrap that is killed before or after a named step; run as a module by ``test_crash``.

It imports everything once and forks a child for each configuration; the child kills itself with SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from replicator.config import load
from replicator.ops.bootstrap import bootstrap, former_life, target
from replicator.ops.bootstrap.bootstrap import Bootstrap, CopyProgress, source_of

# Eight: each child leaves a copy behind that the other region holds, and it holds sixteen.
STEPS: dict[str, tuple[Any, str]] = {
    "put replica away": (former_life.FormerLife, "put_replica_away"),
    "write half": (bootstrap, "write_half"),
    "begin": (target.CopyTarget, "begin"),
    "put away": (former_life.FormerLife, "put_away"),
    "add": (target.CopyTarget, "add"),
    "journal": (target, "begin_journal"),
    "clear": (target.CopyTarget, "clear"),
    "remove half": (bootstrap, "remove_half"),
}
CELLS = [f"{side} {step}" for step in STEPS for side in ("before", "after")]


def arm(cell: str) -> None:
    """Let the step kill this process."""
    side, step = cell.split(" ", 1)
    owner, name = STEPS[step]
    do: Callable[..., Any] = getattr(owner, name)

    def killing(*arguments: Any) -> Any:
        if side == "after":
            do(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, killing)


def run(config: Path, *, replace: bool) -> int:
    """The verb's work; the sequence that the region is at then."""
    settings = load(config)
    work = Bootstrap(settings, source_of(settings, None), replace=replace, rate=None, report=CopyProgress())
    return trio.run(work.run).sequence


def main(configs: list[str]) -> None:
    """Each configuration with the cell of its place; prints how each child ended."""
    for cell, config in zip(CELLS, configs, strict=True):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                arm(cell)
                run(Path(config), replace=True)
                code = 0
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
