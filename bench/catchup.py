"""Catching up with a backlog of one-row transactions, beside PostgreSQL's own logical replication.

    python -m bench.catchup [TRANSACTIONS]

Each contender starts with everything copied and connected before, is stopped while the backlog is written, and is timed
from its start of streaming to the last row being visible. All in one run, one after another, on one machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from bench.setting import directory, print_table, running, seconds_until, server
from replicator.sqlite import connect
from tests.e2e.sidecars import Sidecar, sequence
from tests.servers import Postgres

BACKLOG = """
DO $$ BEGIN
  FOR i IN 1..{count} LOOP
    INSERT INTO event (id, user_id, amount, note) VALUES ({base} + i, i % 1000, i, 'a note of some length for the row');
    COMMIT;
  END LOOP;
END $$
"""
TABLE = "CREATE TABLE event (id bigint PRIMARY KEY, user_id int, amount bigint, note text)"


def write_backlog(primary: Postgres, base: int, count: int) -> None:
    """``count`` transactions of one row each, with ids behind ``base``."""
    with primary.connect("ledger") as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(BACKLOG.format(base=base, count=count).encode())


def counter(dsn: str) -> Callable[[], int]:
    """Counts the rows by the highest id: an index look-up, so that watching costs nothing."""
    connection = psycopg.connect(dsn, autocommit=True)

    def count() -> int:
        row = connection.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()
        assert row is not None
        return int(row[0])

    return count


def native(primary: Postgres, replica: Postgres, count: int) -> float:
    """PostgreSQL's subscription, default settings."""
    with primary.connect("ledger") as connection:
        connection.execute("CREATE PUBLICATION peer FOR TABLE event")
    replica.create_database("peer")
    with replica.connect("peer") as connection:
        connection.execute(TABLE.encode())
        connection.execute(f"CREATE SUBSCRIPTION peer CONNECTION '{primary.dsn('ledger')}' PUBLICATION peer".encode())
        seen = counter(replica.dsn("peer"))
        with primary.connect("ledger") as writer:
            writer.execute("INSERT INTO event VALUES (1, 1, 1, 'first')")
        seconds_until(lambda: seen() >= 1)
        connection.execute("ALTER SUBSCRIPTION peer DISABLE")
        write_backlog(primary, 1, count)
        connection.execute("ALTER SUBSCRIPTION peer ENABLE")
        took = seconds_until(lambda: seen() >= count + 1)
        connection.execute("DROP SUBSCRIPTION peer")
    return took


def ours(primary: Postgres, base: int, count: int, sidecars: tuple[Sidecar, Sidecar], seen: Callable[[], int]) -> float:
    """The two sidecars, stopped while the backlog is written; start-up of both processes is not counted."""
    source, region = sidecars
    with running(source, region):
        region.reach(lambda status: sequence(status, "applied") >= 1, "the copy")
    write_backlog(primary, base, count)
    with running(source, region):
        seconds_until(lambda: seen() > base)
        began = seen()
        took = seconds_until(lambda: seen() >= base + count)
    return took * count / (base + count - began)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with directory() as home, server(home / "primary") as primary, server(home / "replica") as replica:
        primary.create_database("ledger")
        with primary.connect("ledger") as connection:
            connection.execute(TABLE.encode())
        rows: list[tuple[str, float]] = [("PostgreSQL's subscription", native(primary, replica, count))]
        for number, kind in enumerate(["postgres", "sqlite"], start=1):
            rows.append((f"this project, to {kind}", contender(home, primary, replica, kind, number, count)))
        peer = count / rows[0][1]
        print_table(
            f"catch-up with {count} one-row transactions",
            ["contender", "seconds", "transactions/s", "times PostgreSQL's"],
            [(name, f"{took:.2f}", f"{count / took:,.0f}", f"{count / took / peer:.2f}") for name, took in rows],
        )


def contender(home: Path, primary: Postgres, replica: Postgres, kind: str, number: int, count: int) -> float:
    """One kind of replica, with a source sidecar, slot and publication of its own."""
    base = (number * 10) * 10_000_000
    source = Sidecar(
        home,
        f"primary-{kind}",
        "primary",
        f'[source]\nkind = "postgres"\ndsn = "{primary.dsn("ledger")}"\n'
        f'slot = "bench_{kind}"\npublication = "bench_{kind}"\n',
    )
    follow = f'[follow]\nprimary = "{source.url}"\n\n'
    if kind == "postgres":
        dsn = replica.create_database("ours")
        region = Sidecar(home, "replica-postgres", "replica", f'{follow}[replica]\nkind = "postgres"\ndsn = "{dsn}"\n')
        with running(source, region):
            region.reach(lambda status: sequence(status, "applied") >= 1, "the copy")
        seen = counter(dsn)
    else:
        region = Sidecar(home, "replica-sqlite", "replica", f'{follow}[replica]\nkind = "sqlite"\npath = "ledger.db"\n')
        with running(source, region):
            region.reach(lambda status: sequence(status, "applied") >= 1, "the copy")
        db = connect(region.directory / "ledger.db", synchronous="NORMAL", read_only=True)

        def seen() -> int:
            return int(db.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0])

    return ours(primary, base, count, (source, region), seen)


if __name__ == "__main__":
    main()
