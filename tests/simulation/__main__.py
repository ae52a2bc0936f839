"""``python -m tests.simulation --seeds 100000``: many histories on both cores; ``--seed 17 --trace``: one, to read."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import traceback

from replicator.ops.simulation.scenario import live

CHUNK_SEEDS = 100
SHOWN_CHUNKS = 50


def failures(seeds: range) -> list[tuple[int, str]]:
    """The seeds whose history breaks a law, and how."""
    failed = []
    for seed in seeds:
        try:
            live(seed)
        except Exception as error:  # whatever it is, the seed is what counts
            failed.append((seed, f"{type(error).__name__}: {error}"))
    return failed


def many(first: int, count: int) -> int:
    """Live so many histories; the number of those that failed."""
    chunks = [range(at, min(at + CHUNK_SEEDS, first + count)) for at in range(first, first + count, CHUNK_SEEDS)]
    began, failed = time.monotonic(), 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for lived, found in enumerate(pool.imap_unordered(failures, chunks), 1):
            for seed, error in found:
                failed += 1
                print(f"seed {seed}: {error}", flush=True)
            if lived % SHOWN_CHUNKS == 0:
                print(f"{lived * CHUNK_SEEDS} lived, {failed} failed", flush=True)
    seconds = time.monotonic() - began
    rate = f"{count / seconds:.0f} seeds/s on {os.cpu_count()} cores"
    print(f"{count - failed} of {count} histories of failover hold: {rate}")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="one history")
    parser.add_argument("--trace", action="store_true", help="print what happens in it")
    parser.add_argument("--seeds", type=int, default=1_000, help="so many histories")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    arguments = parser.parse_args()
    if arguments.seed is None:
        raise SystemExit(1 if many(arguments.first, arguments.seeds) else 0)
    try:
        print(live(arguments.seed, traced=arguments.trace))
    except Exception:
        traceback.print_exc(limit=-6)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
