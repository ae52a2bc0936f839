"""A process that is killed at a named step of the loop; run as a module by ``test_crash``.

It imports everything once and forks a child for each cell of the matrix; the child kills itself with SIGKILL.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import trio

from settle_buffer import Entry, Misuse, Release, SettleConfig
from settle_buffer.loop import Settler
from tests.settle_buffer.makers import chain

ENTRIES = chain("main", 400)
BATCHES = [(1, 50), (81, 200), (20, 40), (51, 70), (75, 75), (201, 300), (301, 400)]
WAIVED = (71, 80)
EXPECTED = [*range(1, 71), *range(81, 401)]
CONFIG = SettleConfig(resident_entries=40, load_entries=32, window_us=1_000, late="quarantine")
STRAIGHT = dataclasses.replace(CONFIG, straight=True)  # the first batch, the last two and no other go straight
CELLS = [
    (f"{side} {step}", occurrence, CONFIG)
    for step, occurrences in {
        "append": (1, 2, 3, 4, 5, 7),
        "offer": (1, 2, 4, 5),
        "send": (1, 2, 4),
        "load": (1, 2),
        "certify": (1,),
        "keep": (1,),
        "timer": (1,),
        "trim": (1,),
    }.items()
    for side in ("before", "after")
    for occurrence in occurrences
] + [
    (f"{side} {step}", occurrence, STRAIGHT)
    for step, occurrences in {"append": (1, 4), "offer": (1, 2, 6, 7), "send": (1, 5, 6), "trim": (1,)}.items()
    for side in ("before", "after")
    for occurrence in occurrences
]


class Log:
    """Numbers that outlive the process that wrote them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *numbers: int) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write("".join(f"{number}\n" for number in numbers).encode())

    def read(self) -> list[int]:
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []


class Killer:
    """Kills this process when a step is reached for the nth time."""

    def __init__(self, step: str, occurrence: int) -> None:
        self.step = step
        self.left = occurrence

    def __call__(self, step: str) -> None:
        if step == self.step:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


async def live(directory: Path, killer: Killer | None, config: SettleConfig = CONFIG) -> list[tuple[int, Entry]]:
    """One life: go on where the logs say that the last one ended. Entries whose put returned are never put again."""
    journal, returned = Log(directory / "journal"), Log(directory / "returned")
    position = max(journal.read(), default=0)
    settler = Settler(config, directory / "spool", probe=killer)
    settler.start("main", position, ENTRIES[position - 1].digest if position else b"")

    done = trio.Event()
    if position == len(ENTRIES):
        done.set()

    async def consume() -> None:
        async for release in settler.releases:
            assert isinstance(release, Release)
            journal.write(*(entry.sequence for entry in release.entries))
            await settler.acknowledge("main", release.entries[-1].sequence)
            if release.entries[-1] == ENTRIES[-1]:
                done.set()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            await nursery.start(settler.run)
            for number, (first, last) in enumerate(BATCHES):
                if number not in returned.read():
                    await settler.put(ENTRIES[first - 1 : last])
                    returned.write(number)
                if number == 3:
                    await waive_once(settler)
            await done.wait()
            if killer is not None:
                await trio.sleep_forever()  # the timer's steps come when all is idle
            late = await settler.late()
            nursery.cancel_scope.cancel()
    return late


async def waive_once(settler: Settler) -> None:
    if any(certificate.how == "waived" for certificate in await settler.certificates()):
        return
    try:
        await settler.waive("main", *WAIVED, "the test", "these never come in time")
    except Misuse:
        assert settler.buffer.strand("main").waived


def main(root: Path) -> None:
    """Every cell in a directory and a child of its own; prints how each child ended."""
    for number, (step, occurrence, config) in enumerate(CELLS):
        directory = root / str(number)
        directory.mkdir()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                trio.run(live, directory, Killer(step, occurrence), config)
                code = 0
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
