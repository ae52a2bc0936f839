"""Three regions with real servers: a PostgreSQL primary, a PostgreSQL replica and a SQLite replica."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.sidecars import Row, Sidecar, postgres_rows, sequence, sqlite_rows
from tests.servers import Postgres, postgres_bin


def lsn_number(text: str) -> int:
    """``0/16B3748`` as a number."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


class Deployment:
    """Servers and sidecars; ``start`` starts all, ``end`` leaves nothing behind. The replicas follow ``follow``, the
    primary itself if that is empty; ``settle`` is a section of theirs."""

    def __init__(self, directory: Path, follow: str = "", settle: str = "") -> None:
        self.primary_server = Postgres(directory / "primary-server")
        self.replica_server = Postgres(directory / "replica-server")
        for server in (self.primary_server, self.replica_server):
            server.create()
            server.start()
        self.primary_dsn = self.primary_server.create_database("ledger")
        self.replica_dsn = self.replica_server.create_database("ledger")
        self.primary = Sidecar(
            directory,
            "paris",
            "primary",
            f'[source]\nkind = "postgres"\ndsn = "{self.primary_dsn}"\nsequences = "1s"\n',
        )
        follow = f'{settle}[follow]\nprimary = "{follow or self.primary.url}"\nreconnect_max = "1s"\n\n'
        self.lima = Sidecar(
            directory, "lima", "replica", f'{follow}[replica]\nkind = "postgres"\ndsn = "{self.replica_dsn}"\n'
        )
        self.tokyo = Sidecar(directory, "tokyo", "replica", f'{follow}[replica]\nkind = "sqlite"\npath = "ledger.db"\n')
        self.sqlite_path = self.tokyo.directory / "ledger.db"
        self.sidecars = [self.primary, self.lima, self.tokyo]
        self.server_kills = 0

    def end(self) -> None:
        """Everything goes."""
        for sidecar in self.sidecars:
            sidecar.end()
        for server in (self.primary_server, self.replica_server):
            server.stop()

    def pgbench(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start pgbench on the primary."""
        return subprocess.Popen(
            [postgres_bin() / "pgbench", *arguments, "ledger"],
            env=self.primary_server.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def kill_while(self, running: subprocess.Popen[bytes], draws: random.Random, each: int) -> None:
        """Kill every sidecar and the replica's server ``each`` times at random moments while a program runs."""
        victims: list[Sidecar | Postgres] = [*self.sidecars, self.replica_server] * each
        draws.shuffle(victims)
        for victim in victims:
            time.sleep(draws.uniform(0.3, 1.5))  # the random moment itself
            victim.kill()
            if victim is self.replica_server:
                self.server_kills += 1
            victim.start()
        output, _ = running.communicate(timeout=300)
        assert running.returncode == 0, output.decode()

    def converge(self) -> int:
        """Wait until every region has applied all that the primary has committed; the sequence of that."""
        with self.primary_server.connect("ledger") as connection:
            row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            connection.execute("SELECT pg_logical_emit_message(true, 'end', 'one more block, behind all others')")
        assert row is not None
        end = lsn_number(row[0])
        self.primary.reach(lambda status: lsn_number(status["source"]["stored"] or "0/0") >= end, "the log's end")
        status = self.primary.status()
        assert status is not None
        head = sequence(status, "settled")
        for replica in (self.lima, self.tokyo):
            replica.reach(lambda status: sequence(status, "applied") >= head, f"sequence {head}")
        return head

    def assert_equal(self, tables: dict[str, list[str]]) -> None:
        """Row for row, on all three."""
        for table, columns in tables.items():
            primary = list(postgres_rows(self.primary_dsn, table, columns))
            for name, rows in (
                ("lima", postgres_rows(self.replica_dsn, table, columns)),
                ("tokyo", sqlite_rows(self.sqlite_path, table, columns)),
            ):
                self._assert_same(table, name, primary, list(rows))

    def _assert_same(self, table: str, name: str, primary: list[Row], rows: list[Row]) -> None:
        assert len(rows) == len(primary), f"{table} in {name}: {len(rows)} rows, the primary has {len(primary)}"
        for mine, theirs in zip(primary, rows, strict=True):
            assert mine == theirs, f"{table} in {name}: {theirs} instead of {mine}"

    def assert_each_block_once(self) -> None:
        """The counters that the replicas keep in the transactions of their rows."""
        for replica in (self.lima, self.tokyo):
            status = replica.status()
            assert status is not None
            applied, blocks = sequence(status, "applied"), status["strands"][0]["applied_blocks"]
            assert blocks == applied, f"{replica.name}: {blocks} blocks were applied to reach sequence {applied}"

    def logs(self) -> str:
        """All logs, for a failing test."""
        return "\n".join(f"--- {sidecar.name}\n{sidecar.log()}" for sidecar in self.sidecars)


def seed() -> int:
    """The seed of a random test: from the environment, else a new one; printed either way by its test."""
    return int(os.environ.get("REPLICATOR_TEST_SEED") or random.SystemRandom().randrange(2**32))


def in_background(work: Iterable[object]) -> threading.Thread:
    """Go through an iterable in a thread of its own."""
    thread = threading.Thread(target=lambda: [None for _ in work], daemon=True)
    thread.start()
    return thread
