"""Half an hour of pgbench while both regions are verified without a pause: no false alarm, nothing that stands still.

    python -m bench.soak [--minutes 30]

A PostgreSQL primary with pgbench's tables (and its history, without a key), a PostgreSQL and a SQLite replica, with
checkpoints ten times a second, a scrub every few seconds, and ``replicator verify`` of both in turns. Ends with an
error at the first difference, at a key that is called divergent, or when what is proven has not moved for two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.e2e.deployment import Deployment
from tests.e2e.sidecars import Sidecar

WATCH = '[verify]\ncheckpoint = "100ms"\nscrub = "5s"\nscrub_rows = 200_000\n\n'
STANDSTILL_SECONDS = 120.0


def verified(sidecar: Sidecar) -> str:
    """``replicator verify``; its last word. Raises SystemExit at a difference."""
    command = [sys.executable, "-m", "replicator", "verify", str(sidecar.config)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if run.returncode != 0:
        raise SystemExit(f"verify of {sidecar.name} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return run.stdout.strip()


def watched(sidecar: Sidecar) -> dict[str, Any]:
    """What a region's watch says. Raises SystemExit at a key that is called divergent."""
    status = sidecar.status()
    if status is None:
        raise SystemExit(f"{sidecar.name} does not answer:\n{sidecar.log()}")
    watch: dict[str, Any] = status["strands"][0]["verify"]
    if watch["divergent_keys"] or watch["mismatches"]:
        raise SystemExit(f"{sidecar.name} calls keys divergent: {watch}\n{sidecar.log()}")
    return watch


def soak(deployment: Deployment, minutes: float) -> None:
    """Load, and verify until the time is over."""
    deployment.pgbench("-i", "-s", "5").communicate(timeout=300)
    for sidecar in deployment.sidecars:
        sidecar.start()
    deployment.converge()
    load = deployment.pgbench("-c", "4", "-T", str(int(minutes * 60)), "-R", "300")
    rounds, moved = 0, {sidecar.name: (0, time.monotonic()) for sidecar in deployment.sidecars[1:]}
    while load.poll() is None:
        for sidecar in deployment.sidecars[1:]:
            verdict, watch = verified(sidecar), watched(sidecar)
            rounds += 1
            if watch["verified"] > moved[sidecar.name][0]:
                moved[sidecar.name] = watch["verified"], time.monotonic()
            elif time.monotonic() - moved[sidecar.name][1] > STANDSTILL_SECONDS:
                raise SystemExit(f"{sidecar.name}: what is proven stands still: {watch}\n{sidecar.log()}")
            print(f"{verdict}; proven to {watch['verified']:,}, {watch['scrubs']} scrubs", flush=True)
    head = deployment.converge()
    for sidecar in deployment.sidecars[1:]:
        sidecar.reach(lambda status: status["strands"][0]["marks"]["verified"] == head, "proven to the end")
        watched(sidecar)
    print(f"{minutes:g} minutes, {rounds} verifications, {head:,} blocks: no difference, proven to the last block")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="replicator-soak-") as name, contextlib.ExitStack() as ends:
        deployment = Deployment(Path(name), settle=WATCH)
        ends.callback(deployment.end)
        soak(deployment, minutes)


if __name__ == "__main__":
    main()
