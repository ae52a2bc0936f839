"""A cluster whose regions are PostgreSQL databases, each in a server of its own, and their clients.

Clients are an application's: a role without privileges of the sidecar's, sessions that end when they are made to, and a
payment's number from a sequence. A payment that has no answer is made again under the same ``write``, which is unique.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from replicator.format.block import Header
from tests.e2e.cluster import NAMES, Cluster
from tests.e2e.sidecars import postgres_rows
from tests.e2e.writers import PAUSE_SECONDS, Acknowledged, Writer
from tests.etcd import Etcd
from tests.servers import Postgres

APP = "shop"
ROLE = (
    f"CREATE ROLE {APP} LOGIN",
    f"GRANT ALL ON SCHEMA public TO {APP}",
    f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {APP}",
    f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {APP}",
)
SCHEMA = (
    "CREATE TABLE payments (id serial PRIMARY KEY, write text NOT NULL UNIQUE, amount int NOT NULL)",
    "INSERT INTO payments (write, amount) VALUES ('the first of all', 1)",
    "CREATE TABLE audit (write text, amount int)",  # without a key
    "CREATE TABLE balances (owner int PRIMARY KEY, balance bigint NOT NULL)",
    "INSERT INTO balances SELECT n, 0 FROM generate_series(1, 100) n",
)
STANDBY = '"replicator replicator"'  # as ``replicator preflight`` names it
PAY = (
    "WITH paid AS (INSERT INTO payments (write, amount) VALUES (%s, 1) RETURNING id, write, amount),"
    " noted AS (INSERT INTO audit SELECT write, amount FROM paid) SELECT id FROM paid"
)
ADD = "UPDATE balances SET balance = balance + 1 WHERE owner = %s"


class Payer(Writer):
    """One session of the application."""

    _session: psycopg.Connection | None = None

    def _attempt(self, id: str) -> Acknowledged | None:
        region, sent, repeated = self._region, time.monotonic(), False
        try:
            if self._session is None:
                self._session = psycopg.connect(self._dsn(region), autocommit=True)
            with self._session.transaction():
                self._session.execute(PAY, (id,), prepare=True)
                self._session.execute(ADD, (hash(id) % 100 + 1,), prepare=True)
        except psycopg.errors.UniqueViolation:
            repeated = True  # an earlier attempt, that had no answer, was done
        except psycopg.OperationalError as error:
            self._turned_away(error)
            return None
        except psycopg.Error as error:
            if error.sqlstate == "25006":  # read_only_sql_transaction
                self._turned_away(error)
                return None
            self.faults.append(f"{id} at {region}: {error.sqlstate} {error}")
            self._over.set()
            return None
        return Acknowledged(id, region, 0, sent, time.monotonic(), repeated)

    def _dsn(self, region: str) -> str:
        address, port = self._addresses[region]
        return f"host={address} port={port} dbname=ledger user={APP} connect_timeout=2 application_name=shop"

    def _turned_away(self, error: psycopg.Error) -> None:
        hint = error.diag.message_hint or ""
        named = next((name for url, name in self._known_as.items() if url in hint), None)
        if named is None:
            self._elsewhere()
        else:
            self._go(named)
        self._over.wait(PAUSE_SECONDS)

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


class PostgresCluster(Cluster):
    """Three databases. ``directory`` is where the servers are made, with the lines ``conf``."""

    writer = Payer

    def __init__(
        self,
        directory: Path,
        etcd: Etcd,
        *,
        acknowledge: int = 0,
        conf: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self._acknowledge = acknowledge
        self.servers = {name: Postgres(directory / f"{name}-server", conf) for name in NAMES}
        self.dsns: dict[str, str] = {}
        for name, server in self.servers.items():
            server.create()
            server.start()
            self.dsns[name] = server.create_database("ledger")
            self.run(name, *ROLE)
        self.run(NAMES[0], *SCHEMA)
        super().__init__(directory, etcd, self._section, acknowledge=acknowledge, **settings)

    def start(self) -> None:
        super().start()
        self.wait(lambda: all(len(self.rows(name)) == 1 for name in NAMES), "the first copy")
        for name in NAMES[1:]:  # what no block carries, whoever migrates the schema applies to every region
            self.run(name, "SET replicator.writer = on", "ALTER TABLE payments ADD UNIQUE (write)")
        if self._acknowledge:  # in every server: whichever leads waits for the others
            for server in self.servers.values():
                with server.connect() as session:
                    session.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'".encode())
                    session.execute("SELECT pg_reload_conf()")
            self.wait(lambda: self["paris"].metric("replicator_source_waits") == 1, "commits wait")

    def _section(self, name: str) -> str:
        if name == NAMES[0]:
            return f'[source]\nkind = "postgres"\ndsn = "{self.dsns[name]}"\nsequences = "500ms"\nheartbeat = "200ms"\n'
        return f'[replica]\nkind = "postgres"\ndsn = "{self.dsns[name]}"\n'

    def run(self, name: str, *statements: str, user: str = "postgres") -> None:
        """Run statements in a region's database, each by itself."""
        with psycopg.connect(self.servers[name].dsn("ledger", user), autocommit=True) as session:
            for statement in statements:
                session.execute(statement.encode())

    def is_refused(self, name: str, user: str) -> bool:
        """Whether a payment of this user is refused by the database."""
        try:
            self.run(name, f"INSERT INTO payments (write, amount) VALUES ('probe {time.monotonic_ns()}', 1)", user=user)
        except psycopg.errors.ReadOnlySqlTransaction:
            return True
        return False

    def close(self) -> None:
        super().close()
        for server in self.servers.values():
            if server.process is not None and server.process.poll() is None:
                server.kill()

    def writers(self, number: int = 4, **settings: Any) -> list[Writer]:
        made = super().writers(number, **settings)
        for writer in made:
            writer._addresses = {name: ("127.0.0.1", server.port) for name, server in self.servers.items()}
        return made

    def rows(self, name: str) -> list[tuple[str | None, ...]]:
        """The payments of a region; none before it has the table."""
        with contextlib.suppress(psycopg.errors.UndefinedTable):
            return list(postgres_rows(self.dsns[name], "payments", ["write", "id", "amount"]))
        return []

    def check_chain(self, chain: Sequence[Header], times: Mapping[str | None, int]) -> None:
        """Numbers that were handed out twice would be seen here, and a balance that was added to twice."""
        for name in NAMES:
            with psycopg.connect(self.dsns[name]) as session:
                (total,) = session.execute("SELECT sum(balance) FROM balances").fetchone() or (None,)
                (noted,) = session.execute("SELECT count(*) FROM audit").fetchone() or (None,)
            assert total == noted == sum(1 for write in times if write is not None and write.startswith("w")), name


@contextlib.contextmanager
def postgres_cluster(directory: Path, etcd: Etcd, **settings: Any) -> Iterator[PostgresCluster]:
    """Three regions that run, paris leading."""
    three = PostgresCluster(directory, etcd, **settings)
    try:
        three.start()
        yield three
    finally:
        three.close()


def terms(acknowledged: Sequence[Acknowledged]) -> list[str]:
    """The regions that have acknowledged, in order, each as often as it took over."""
    order: list[str] = []
    for one in acknowledged:
        if not one.repeated and order[-1:] != [one.region]:
            order.append(one.region)
    return order
