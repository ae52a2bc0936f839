"""A game day for as long as it is told: see ``day``. Ends with 1 if anything was found."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.gameday.day import GameDay
from tests.e2e.gameday.faults import FAULTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.gameday", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--acknowledge", type=int, default=1, choices=[0, 1], help="how many regions a commit waits for"
    )
    parser.add_argument("--faults", default="", help=f"only these: {', '.join(FAULTS)}")
    parser.add_argument("--undisturbed-copy", action="store_true", help="no fault before the first copy is whole")
    parser.add_argument("--keep", type=Path, help="a directory for logs and files, kept")
    options = parser.parse_args()
    print(f"seed {options.seed}, K = {options.acknowledge}, {options.minutes} minutes", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="replicator-gameday-") as scratch:
        directory = options.keep or Path(scratch)
        directory.mkdir(exist_ok=True, parents=True)
        faults = [name for name in options.faults.split(",") if name]

        def say(line: str) -> None:
            print(f"{time.monotonic() - began:7.1f}  {line}", flush=True)

        day = GameDay(
            directory, options.seed, options.acknowledge, say, faults, first_copy=not options.undisturbed_copy
        )
        day.run(options.minutes * 60)
    print(
        f"\n{day.rounds} rounds, {day.acknowledged} transfers acknowledged, {day.lost} lost and sealed,"
        f" {len(day.violations)} violations (seed {options.seed}, K = {options.acknowledge})"
    )
    for violation in day.violations:
        print(f"- {violation[:600]}")
    return 1 if day.violations else 0


if __name__ == "__main__":
    sys.exit(main())
