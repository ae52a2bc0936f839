"""What it costs a writer to wait until another region has its write durably, on the embedded ledger.

    python -m bench.acknowledge [WRITES]

Two primaries, each with a replica: one answers when a write is durable here (K = 0), one when it is durable there, too
(K = 1). One writer at a time over one connection, one small insert each, to both in turn; all on one machine, so the
network between regions is missing. Then 32 writers at once, for the rate.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import httpx

from bench.setting import directory, print_table
from tests.faults.regions import EMBEDDED, Region, follow, sqlite_replica, until_ready

WARM_WRITES = 100
WRITERS = 32


def pair(home: Path, count: int) -> tuple[Region, Region]:
    """A primary that waits for so many regions, and its replica."""
    section = f"[failover]\nacknowledge = {count}\n\n"
    primary = Region(home, f"paris{count}", "primary", section + EMBEDDED)
    return primary, Region(home, f"tokyo{count}", "replica", follow(primary.url) + sqlite_replica())


def write(client: httpx.Client, name: str) -> float:
    """Insert one document; how long the answer took, in seconds."""
    document = {"wallet_id": name, "user_id": "ada"}
    began = time.perf_counter()
    answer = client.post(
        "/v1/transactions", json={"statements": [{"table": "wallets", "op": "insert", "document": document}]}
    )
    took = time.perf_counter() - began
    answer.raise_for_status()
    return took


def rate(primary: Region, count: int) -> float:
    """Writes a second of many writers at once."""

    def some(number: int) -> None:
        with httpx.Client(base_url=primary.url, trust_env=False, timeout=30) as client:
            for place in range(count // WRITERS):
                write(client, f"many-{number}-{place}")

    threads = [threading.Thread(target=some, args=(number,)) for number in range(WRITERS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count // WRITERS * WRITERS / (time.perf_counter() - began)


def main(count: int) -> None:
    with directory() as home:
        pairs = [pair(home, 0), pair(home, 1)]
        regions = [region for two in pairs for region in two]
        try:
            until_ready(regions, lambda region: region.reach_sequence("applied", 1))
            clients = [httpx.Client(base_url=primary.url, trust_env=False, timeout=30) for primary, _ in pairs]
            times: list[list[float]] = [[], []]
            for number in range(WARM_WRITES + count):
                for client, taken in zip(clients, times, strict=True):
                    taken.append(write(client, f"one-{number}"))
            rows = []
            for kind, taken in enumerate(times):
                ranked = sorted(taken[WARM_WRITES:])
                p50, p99 = (ranked[round(share * (len(ranked) - 1))] * 1000 for share in (0.5, 0.99))
                rows.append([f"K = {kind}", f"{p50:.1f} ms", f"{p99:.1f} ms", f"{rate(pairs[kind][0], count):,.0f}"])
            head = ["", "p50", "p99", f"writes/s, {WRITERS} writers"]
            print_table(f"a write's answer, {count:,} writes each", head, rows)
        finally:
            for region in regions:
                region.end()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
