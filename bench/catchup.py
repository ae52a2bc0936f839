"""Catching up with a backlog of one-row transactions, beside PostgreSQL's own logical replication.

    python -m bench.catchup [TRANSACTIONS]

Each contender has copied the table and is stopped while the backlog is written. It is timed from the moment at which
its replica shows the first row of the backlog to the last one; what it showed at the first look is not
counted: neither the start of processes nor that of a subscription's worker is part of a rate. Each replica is looked at
50 times a second. All in one run, one after another, on one machine, whose cores servers and sidecars share. Both
servers sync their disks; the journal, the spool and the chain of this project are on.
"""

from __future__ import annotations

import sys

from bench.contenders import KINDS, NOTE, Contender, contender
from bench.setting import directory, print_table, seconds_until, server
from tests.servers import Postgres

BACKLOG = """
DO $$ BEGIN
  FOR i IN 1..{count} LOOP
    INSERT INTO event (id, user_id, amount, note) VALUES ({base} + i, i % 1000, i, '{note}');
    COMMIT;
  END LOOP;
END $$
"""


def write_backlog(primary: Postgres, base: int, count: int) -> None:
    """``count`` transactions of one row each, with ids behind ``base``."""
    with primary.connect("ledger") as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(BACKLOG.format(base=base, count=count, note=NOTE).encode())
        connection.execute("CHECKPOINT")  # so that none falls into a contender's time


def catch_up(primary: Postgres, contender: Contender, base: int, count: int) -> float:
    """The seconds that it takes for a backlog of ``count``."""
    contender.stop()
    write_backlog(primary, base, count)
    contender.start()
    seconds_until(lambda: contender.seen() > base)
    began = contender.seen()
    return seconds_until(lambda: contender.seen() >= base + count) * count / max(base + count - began, 1)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rows: list[tuple[str, float]] = []
    with directory() as home, server(home / "primary") as primary, server(home / "replica") as replica:
        primary.create_database("ledger")
        for number, kind in enumerate(KINDS, start=1):
            with contender(home, primary, replica, kind) as made:
                rows.append((made.name, catch_up(primary, made, number * 1_000_000_000, count)))
    peer = count / rows[0][1]
    print_table(
        f"catch-up with {count} one-row transactions",
        ["contender", "seconds", "transactions/s", "times PostgreSQL's"],
        [(name, f"{took:.2f}", f"{count / took:,.0f}", f"{count / took / peer:.2f}") for name, took in rows],
    )


if __name__ == "__main__":
    main()
