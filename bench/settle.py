"""What the settle buffer costs: durable, on one core, through the trio loop. ``python -m bench.settle [--backlog N]``.

Every figure runs in a process of its own, so that its memory is its own. Entries have bodies of 100 bytes and come in
batches of 2,000; making them is not measured. "Durable" is one fsync a batch; the consumer acknowledges each release.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from settle_buffer import Entry, Release, SettleConfig
from settle_buffer.loop import Settler

BATCH = 2_000
BODY = b"x" * 100
WARM = 100_000  # the small backlog that the large one is compared with
TURNS = 10


def entries_of(first: int, count: int) -> list[Entry]:
    """A stretch of the chain, the same whenever it is asked for."""
    digests = [hashlib.blake2b(b"%d" % n, digest_size=32).digest() for n in range(first - 1, first + count)]
    return [Entry("main", first + i, (first + i) * 1_000, digests[i + 1], digests[i], BODY) for i in range(count)]


async def through(batches: Iterator[list[Entry]], last: int) -> dict[str, float]:
    """Entries a second until ``last`` has been released, by the clock and by this process's processor time (what an
    idle machine would give at most); making the batches is taken off."""
    making = making_cpu = 0.0
    with tempfile.TemporaryDirectory() as directory:
        settler = Settler(SettleConfig(), Path(directory) / "spool")
        settler.start("main", 0, b"")
        async with trio.open_nursery() as nursery:
            await nursery.start(settler.run)
            nursery.start_soon(consume, settler, last, nursery.cancel_scope)
            begun, begun_cpu = time.perf_counter(), time.process_time()
            while True:
                made, made_cpu = time.perf_counter(), time.process_time()
                batch = next(batches, None)
                making += time.perf_counter() - made
                making_cpu += time.process_time() - made_cpu
                if batch is None:
                    break
                await settler.put(batch)
        return {
            "entries_per_second": last / (time.perf_counter() - begun - making),
            "entries_per_cpu_second": last / (time.process_time() - begun_cpu - making_cpu),
        }


async def consume(settler: Settler, last: int, scope: trio.CancelScope) -> None:
    """Acknowledge everything; end the run at ``last``."""
    async for release in settler.releases:
        assert isinstance(release, Release)
        await settler.acknowledge("main", release.entries[-1].sequence)
        if release.entries[-1].sequence == last:
            scope.cancel()


def in_order(count: int = 600_000) -> dict[str, float]:
    """Nothing out of place."""
    batches = (entries_of(first, BATCH) for first in range(1, count, BATCH))
    return trio.run(through, batches, count)


def displaced(count: int = 400_000) -> dict[str, float]:
    """1 % come twice, 1 % up to 1,000 places late; requests are off, as the missing ones come by themselves."""
    dice = random.Random(1)
    keys = sorted((i + (dice.randint(1, 1_000) if dice.random() < 0.01 else 0), i) for i in range(count))
    arrival = [i for _, i in keys]
    chain = entries_of(1, count)
    out: list[Entry] = []
    for i in arrival:
        out.append(chain[i])
        if dice.random() < 0.01:
            out.append(chain[max(0, i - dice.randint(0, 500))])
    batches = (out[start : start + BATCH] for start in range(0, len(out), BATCH))
    return trio.run(through, batches, count)


def latency(seconds: float = 5.0, rate: int = 1_000) -> dict[str, float]:
    """From ``put`` to the consumer, one entry at a time, in order."""
    seen: list[float] = []

    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            settler = Settler(SettleConfig(), Path(directory) / "spool")
            settler.start("main", 0, b"")
            chain = entries_of(1, int(seconds * rate))
            put_at = [0.0] * (len(chain) + 1)

            async def receive() -> None:
                async for release in settler.releases:
                    assert isinstance(release, Release)
                    now = time.perf_counter()
                    seen.extend(now - put_at[entry.sequence] for entry in release.entries)
                    await settler.acknowledge("main", release.entries[-1].sequence)
                    if release.entries[-1] == chain[-1]:
                        nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                await nursery.start(settler.run)
                nursery.start_soon(receive)
                begun = trio.current_time()
                for number, entry in enumerate(chain):
                    await trio.sleep_until(begun + number / rate)
                    put_at[entry.sequence] = time.perf_counter()
                    await settler.put([entry])

    trio.run(run)
    ranked = sorted(seen)
    return {"p50_ms": 1e3 * statistics.median(ranked), "p99_ms": 1e3 * ranked[int(len(ranked) * 0.99)]}


def backlog(count: int) -> dict[str, float]:
    """Everything waits for sequence 1; then it comes. Near its end the large backlog takes turns with new small ones,
    and each turn is compared with its neighbour, so that what else the machine does weighs on both sides."""

    async def run() -> dict[str, float]:
        small: list[float] = []
        large: list[float] = []
        with tempfile.TemporaryDirectory() as directory:
            settler = _waiting(directory)
            async with trio.open_nursery() as nursery:
                await nursery.start(settler.run)
                nursery.start_soon(consume, settler, count, nursery.cancel_scope)
                begin = count - TURNS * WARM
                await _grow(settler, 2, begin)
                for turn in range(TURNS):
                    small.append(await _small_backlog())
                    large.append(await _grow(settler, begin + turn * WARM + 1, begin + (turn + 1) * WARM))
                assert settler.status().held_entries == count - 1
                size = (Path(directory) / "spool").stat().st_size
                begun = time.perf_counter()
                await settler.put(entries_of(1, 1))
            drained = time.perf_counter() - begun
        return {
            "us_per_entry_at_100k": statistics.median(small),
            "us_per_entry_at_the_end": statistics.median(large),
            "ratio": statistics.median(mine / theirs for mine, theirs in zip(large, small, strict=True)),
            "drained_entries_per_second": count / drained,
            "spool_mb": size / 1e6,
        }

    return trio.run(run)


def _waiting(directory: str) -> Settler:
    """A settler that does not ask for what is missing."""
    settler = Settler(SettleConfig(request_after_us=10**12), Path(directory) / "spool")
    settler.start("main", 0, b"")
    return settler


async def _small_backlog() -> float:
    """What an entry costs, in microseconds, while a new backlog grows from 50,000 to 150,000."""
    with tempfile.TemporaryDirectory() as directory:
        settler = _waiting(directory)
        async with trio.open_nursery() as nursery:
            await nursery.start(settler.run)
            await _grow(settler, 2, WARM // 2)
            cost = await _grow(settler, WARM // 2 + 1, WARM * 3 // 2)
            nursery.cancel_scope.cancel()
    return cost


async def _grow(settler: Settler, first: int, last: int) -> float:
    """Put entries that have to wait; the median cost of one, in microseconds."""
    costs: list[float] = []
    for start in range(first, last + 1, BATCH):
        batch = entries_of(start, min(BATCH, last + 1 - start))
        begun = time.perf_counter()
        await settler.put(batch)
        costs.append((time.perf_counter() - begun) / len(batch) * 1e6)
    return statistics.median(costs)


FIGURES: dict[str, tuple[str, Callable[..., dict[str, float]]]] = {
    "in_order": ("in order, >= 300,000 a second", in_order),
    "displaced": ("1 % twice, 1 % displaced by up to 1,000, >= 150,000 a second", displaced),
    "latency": ("added latency at 1,000 a second, < 5 ms", latency),
    "backlog": ("backlog of 10 million, ratio <= 1.2, memory < 200 MB", backlog),
}


def run_figure(name: str, count: int) -> None:
    """One figure in this process, as a line of JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figure = FIGURES[name][1]
    result = figure(count) if name == "backlog" else figure()
    result["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=FIGURES, help=argparse.SUPPRESS)
    parser.add_argument("--backlog", type=int, default=10_000_000, help="entries in the backlog")
    arguments = parser.parse_args()
    if arguments.only:
        run_figure(arguments.only, arguments.backlog)
        return
    print("| figure | measured |\n|---|---|")
    for name, (title, _) in FIGURES.items():
        command = [sys.executable, "-m", "bench.settle", "--only", name, "--backlog", str(arguments.backlog)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        values = ", ".join(f"{key} {value:,.2f}" for key, value in json.loads(output).items())
        print(f"| {title} | {values} |", flush=True)


if __name__ == "__main__":
    main()
