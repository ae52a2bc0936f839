"""What proof costs: catching up with checkpoints on and off, in turns, and a pass of the scrub.

    python -m bench.verify [TRANSACTIONS [ROWS]]

The first table is as in ``bench.catchup``, each contender twice, in turns: with ``[verify] checkpoints`` and without.
The second reads ROWS rows of a table through digests, as each side of a scrub does, and tells the processor time of
both the reading process and the server, for 10 million rows.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from pathlib import Path

from bench.catchup import catch_up
from bench.contenders import NOTE, Project, begin_anew
from bench.setting import directory, print_table, server
from replicator.format.definition import Column, Definition
from replicator.format.digest import TableDigest
from replicator.format.position import Position
from replicator.format.row import pack_row
from replicator.pipeline.replicas.base import AppliedMark, Define, Reader, Replica, TableChange
from replicator.pipeline.replicas.postgres import PostgresReader, PostgresReplica
from replicator.pipeline.replicas.sqlite import SqliteReader, SqliteReplica
from tests.servers import Postgres

TURNS = 3
BUCKETS = 4096
EVENT = Definition(
    "public",
    "event",
    (Column("id", "bigint"), Column("user_id", "integer"), Column("amount", "bigint"), Column("note", "text")),
    ("id",),
)


def throughput(count: int) -> None:
    """The rates with and without checkpoints."""
    rows: list[tuple[str, str, str, str]] = []
    for kind in ("postgres", "sqlite"):
        seconds: dict[bool, list[float]] = {True: [], False: []}
        with directory() as home, server(home / "primary") as primary, server(home / "replica") as replica:
            primary.create_database("ledger")
            for turn in range(TURNS):
                for on in (True, False):
                    name = f"{turn}-{'on' if on else 'off'}"
                    (home / name).mkdir()
                    begin_anew(primary)
                    verify = f"[verify]\ncheckpoints = {str(on).lower()}\nscrubs = false\n\n"
                    made = Project(home / name, primary, replica, kind, verify, f"{kind}_{turn}_{on}".lower())
                    try:
                        seconds[on].append(catch_up(primary, made, (turn + 1) * 1_000_000_000, count))
                    finally:
                        made.end()
        proven, plain = (sorted(seconds[side])[TURNS // 2] for side in (True, False))
        rows.append((kind, f"{count / plain:,.0f}", f"{count / proven:,.0f}", f"{(1 - plain / proven) * 100:.0f} %"))
    print_table(
        f"catch-up with {count} one-row transactions, median of {TURNS}, transactions/s",
        ["to", "without checkpoints", "with", "cost"],
        rows,
    )


def server_seconds(pid: int) -> float:
    """Processor time of a server's process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def session_pid(postgres: Postgres, database: str) -> int:
    """The server's process of the only session of ours in a database."""
    with postgres.connect() as connection:
        session = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'replicator'", [database]
        ).fetchone()
    assert session is not None
    return int(session[0])


def filled(replica: Replica, rows: int) -> None:
    """A replica with so many rows."""
    replica.open()
    replica.begin()
    replica.apply("main", [Define(1, EVENT)])
    for at in range(0, rows, 10_000):
        images = [
            pack_row([str(n).encode(), str(n % 1000).encode(), str(n * 7).encode(), NOTE.encode()])
            for n in range(at, min(at + 10_000, rows))
        ]
        replica.apply("main", [TableChange(EVENT, [], [], [], images, [])])
    replica.commit(AppliedMark(Position("main", 1, 1, bytes(32)), 0, 1))
    replica.close()


def read_all(reader: Reader) -> float:
    """The processor time of this process for digesting the table."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    digest = TableDigest("event", BUCKETS)
    for chunk in reader.lines("event"):
        digest.add(chunk)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scrub_cost(rows: int) -> None:
    """One side of a pass over one table, for each engine."""
    costs = []
    with tempfile.TemporaryDirectory() as name, directory() as home, server(home / "replica") as postgres:
        path = Path(name) / "replica.db"
        filled(SqliteReplica(path), rows)
        costs.append(("SQLite", read_all(SqliteReader(path)), 0.0))
        dsn = postgres.create_database("scrubbed")
        filled(PostgresReplica(dsn), rows)
        reader = PostgresReader(dsn)
        pid = session_pid(postgres, "scrubbed")
        before = server_seconds(pid)
        here = read_all(reader)
        costs.append(("PostgreSQL", here, server_seconds(pid) - before))
        reader.close()
    scale = 10_000_000 / rows
    print_table(
        f"digests of a table of {rows:,} rows: processor seconds for 10 million",
        ["engine", "sidecar", "server", "both"],
        [(e, f"{a * scale:.0f}", f"{b * scale:.0f}", f"{(a + b) * scale:.0f}") for e, a, b in costs],
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    throughput(count)
    scrub_cost(rows)


if __name__ == "__main__":
    main()
