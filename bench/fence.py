"""What the fence of a PostgreSQL database costs, and how long closing and opening it take.

    python -m bench.fence [RUNS] [SECONDS]

Close and open under pgbench with eight clients: ten runs unless told. Closing includes the end of all sessions.
Throughput and effort without the fence and with it (open), in turns, on one server in one run, five seconds each.
Throughput shows little on a machine that does something else meanwhile; processor time is steadier.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

from bench.setting import directory, pgbench, print_table, server
from replicator.cluster.fencing.postgres import PostgresFence
from tests.servers import Postgres, postgres_bin

CLIENTS = ["-c", "8", "-j", "2"]
TERM_SECONDS = 60.0
WARM_SECONDS = 1.0
TRANSACTIONS = 4_000


def load(postgres: Postgres, *arguments: str) -> subprocess.Popen[str]:
    """pgbench, running."""
    command = [str(postgres_bin() / "pgbench"), "-n", *CLIENTS, *arguments, "ledger"]
    return subprocess.Popen(
        command, env=postgres.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def throughput(postgres: Postgres, seconds: float) -> float:
    """Transactions a second."""
    out, _ = load(postgres, "-T", f"{seconds:.0f}").communicate()
    rate = re.search(r"tps = ([0-9.]+)", out)
    assert rate is not None, out
    return float(rate[1])


async def turn(fence: PostgresFence, postgres: Postgres) -> tuple[float, float]:
    """The milliseconds that it takes to open, and to close under load."""
    anchor = await fence.anchor()
    began = time.monotonic()
    await fence.open(1, anchor, TERM_SECONDS)
    opened = time.monotonic() - began
    process = load(postgres, "-T", "60")
    await trio.sleep(WARM_SECONDS)
    began = time.monotonic()
    await fence.close(None, retry_after=1)
    closed = time.monotonic() - began
    assert process.wait() != 0, "the load was not ended"
    return opened * 1000, closed * 1000


def processor(postgres: Postgres) -> float:
    """The seconds of processor time that the server's ended sessions have taken: those of a load that is over."""
    assert postgres.process is not None
    fields = Path(f"/proc/{postgres.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def effort(postgres: Postgres) -> float:
    """The microseconds of the server's processor time for a transaction, one client."""
    before = processor(postgres)
    command = [str(postgres_bin() / "pgbench"), "-n", "-M", "prepared", "-t", str(TRANSACTIONS), "ledger"]
    environment = {**postgres.environment, "PGOPTIONS": "-c synchronous_commit=off"}  # waits for no disk
    subprocess.run(command, env=environment, check=True, capture_output=True)
    time.sleep(0.2)  # the session's end is reaped
    return (processor(postgres) - before) / TRANSACTIONS * 1e6


async def compare(fence: PostgresFence, runs: int, measured: Callable[[], float]) -> list[str]:
    """The medians without and with the fence, in turns, and how they differ."""
    bare, fenced = [], []
    for _ in range(runs):
        await fence.remove()
        bare.append(measured())
        await fence.install()
        await fence.open(1, await fence.anchor(), TERM_SECONDS)
        fenced.append(measured())
    without, with_it = statistics.median(bare), statistics.median(fenced)
    return [f"{without:,.0f}", f"{with_it:,.0f}", f"{(with_it / without - 1) * 100:+.1f} %"]


async def measure(postgres: Postgres, runs: int, seconds: float) -> None:
    fence = PostgresFence(postgres.dsn("ledger"))
    await fence.install()
    times = [await turn(fence, postgres) for _ in range(runs)]
    rows = []
    for what, spread in zip(("open", "close, all sessions ended"), zip(*times, strict=True), strict=True):
        rows.append([what, *(f"{value:.1f}" for value in (min(spread), statistics.median(spread), max(spread)))])
    print_table(f"the fence under pgbench -c 8, {runs} runs", ["", "least, ms", "median, ms", "most, ms"], rows)
    tps = await compare(fence, runs, lambda: throughput(postgres, seconds))
    each = await compare(fence, runs, lambda: effort(postgres))
    fence.release()
    rows = [["transactions a second, -c 8", *tps], ["processor time of the server a transaction, µs, -c 1", *each]]
    print_table("pgbench, TPC-B", ["", "without", "with the fence", "difference"], rows)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    with directory() as home, server(home / "server") as postgres:
        postgres.create_database("ledger")
        pgbench(postgres, "ledger", "-i", "-q", "-s", "10")
        trio.run(measure, postgres, runs, seconds)


if __name__ == "__main__":
    main()
