"""How long a commit on the primary takes to be visible on the replica, in steady state, beside PostgreSQL's own
logical replication.

    python -m bench.latency [SECONDS] [TRANSACTIONS_PER_SECOND]

One writer, one row a transaction, an even pace (1,000 a second for 10 s unless told). A commit's moment is when it
returned to the writer; a row is visible when a look at the replica shows it. A look follows a millisecond after the one
before, so that is the resolution. Contenders run one after another, in one run, on one machine.
"""

from __future__ import annotations

import bisect
import sys
import threading
import time

from bench.contenders import KINDS, NOTE, Contender, contender
from bench.setting import directory, print_table, seconds_until, server
from tests.servers import Postgres

LOOK_SECONDS = 0.001
WARM_SECONDS = 2.0


def write(primary: Postgres, base: int, count: int, rate: float) -> list[float]:
    """Commit ``count`` rows with ids behind ``base``; the moment of each commit."""
    committed = []
    with primary.connect("ledger") as connection:
        began = time.monotonic()
        for number in range(1, count + 1):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            row = (base + number, number % 1000, number, NOTE)
            connection.execute("INSERT INTO event VALUES (%s, %s, %s, %s)", row, prepare=True)
            committed.append(time.monotonic())
    return committed


class Watcher:
    """Looks at the replica in a thread of its own: ``looks`` are (highest id, moment) of each look that showed more."""

    def __init__(self, contender: Contender, last: int) -> None:
        self.looks: list[tuple[int, float]] = []
        self._contender = contender
        self._last = last
        self.thread = threading.Thread(target=self._look)
        self.thread.start()

    def _look(self) -> None:
        highest = 0
        while highest < self._last:
            if (seen := self._contender.seen()) > highest:
                highest = seen
                self.looks.append((highest, time.monotonic()))
            time.sleep(LOOK_SECONDS)


def latencies(primary: Postgres, contender: Contender, base: int, seconds: float, rate: float) -> list[float]:
    """The seconds from commit to visible of each transaction, sorted; those of the warm-up are left out."""
    warm, count = round(WARM_SECONDS * rate), round((WARM_SECONDS + seconds) * rate)
    watcher = Watcher(contender, base + count)
    committed = write(primary, base, count, rate)
    watcher.thread.join()
    shown = [highest for highest, _ in watcher.looks]
    visible = [watcher.looks[bisect.bisect_left(shown, base + number)][1] for number in range(warm + 1, count + 1)]
    return sorted(max(0.0, seen - at) for seen, at in zip(visible, committed[warm:], strict=True))


def wait_until_seen(contender: Contender) -> None:
    seconds_until(lambda: contender.seen() >= 1)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 1000.0
    rows = []
    with directory() as home, server(home / "primary") as primary, server(home / "replica") as replica:
        primary.create_database("ledger")
        for number, kind in enumerate(KINDS, start=1):
            with contender(home, primary, replica, kind) as made:
                wait_until_seen(made)
                delays = latencies(primary, made, number * 1_000_000_000, seconds, rate)
                rows.append((made.name, *(f"{at(delays, part) * 1000:.1f}" for part in (0.5, 0.9, 0.99, 1.0))))
    print_table(
        f"commit to visible at {rate:,.0f} one-row transactions a second",
        ["contender", "p50, ms", "p90, ms", "p99, ms", "most, ms"],
        rows,
    )


def at(ordered: list[float], part: float) -> float:
    """The value below which this part of them lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


if __name__ == "__main__":
    main()
