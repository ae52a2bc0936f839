"""Every state in which a PostgreSQL region can be found, made from one replica at the fork, and the region to copy.

``lima`` leads and has gone on; ``paris`` is whatever a state makes of a replica that stood at the fork.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.cluster.decisions.model import DurableState
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.durable_state import DurableStateFile, StoredState
from replicator.cluster.fencing.postgres import PostgresFence
from replicator.cluster.rejoin.rewind import Rewind
from replicator.config import Config, parse
from replicator.pipeline.replicas.postgres import PostgresReplica
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal
from tests.cluster.promotion.world import STRAND, Region, follow
from tests.cluster.rejoin.chains import Chain, sealed
from tests.contracts.replica_kinds import PostgresKind
from tests.servers import free_port

SCHEMA = (
    "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)",
    "CREATE TABLE audit (what text, amount int)",  # without a key
    "INSERT INTO accounts SELECT n, 100 FROM generate_series(1, 30) n",
    "INSERT INTO audit SELECT 'good', n FROM generate_series(1, 20) n",
)
MORE = ("UPDATE accounts SET balance = 200 WHERE id < 10", "INSERT INTO audit VALUES ('later', 1), ('good', 1)")
ORPHANS = ("INSERT INTO audit VALUES ('orphan', 1)", "UPDATE accounts SET balance = 0 WHERE id = 1")
UNCAPTURED = ("INSERT INTO audit VALUES ('unread', 1)", "DELETE FROM accounts WHERE id = 2")
APP = "SET replicator.writer = on"


class Killed(BaseException):
    """The process would be gone here."""


def killed_at(where: str, work: Callable[[Callable[[str], None]], object]) -> None:
    """Do ``work(on_step)`` until it comes to ``where``."""

    def on_step(here: str) -> None:
        if here == where:
            raise Killed(where)

    try:
        work(on_step)
    except Killed:
        return
    raise AssertionError(f"{where} was not reached")


class Paris(Region):
    """The region that is made anew: its directory and its database, and what a test does to them."""

    def __init__(self, directory: Path, dsn: str, config: Config, lima: Region) -> None:
        self.directory, self.dsn, self.config, self.lima = directory, dsn, config, lima
        self.files = config.region.files
        self.path = self.files.journal
        self.options = lima.options.__class__(dsn, slot="paris" + str(conninfo_to_dict(dsn)["dbname"]))
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.path)
        self.journal.open()

    def role_is(self, state: RoleState, half: str, epoch: int = 2) -> None:
        """What its controller has kept."""
        memory = DurableState(state, half, epoch=epoch, promised=epoch, led=epoch if half == "primary" else 0)  # type: ignore[arg-type]
        DurableStateFile(self.files.role).keep(StoredState(memory))

    def fence(self) -> None:
        async def install() -> None:
            fence = PostgresFence(self.dsn)
            await fence.install()
            fence.release()

        trio.run(install)

    def led(self) -> None:
        """It was the primary in epoch 2, and has commits of its own, the last of them not captured."""
        self.fence()
        self.role().promote(2)
        self.do(f"{APP}; UPDATE replicator.fencing SET epoch = 2")  # as the guard does when it opens
        self.do(*(f"{APP}; {statement}" for statement in ORPHANS))
        self.capture()
        self.do(*(f"{APP}; {statement}" for statement in UNCAPTURED))
        self.role_is(RoleState.PRIMARY, "primary")

    def adopted(self, where: str = "") -> None:
        """It came back as a replica, and was killed there."""
        self.led()
        self.capture()
        self.role_is(RoleState.REJOINING, "primary")
        if where:
            killed_at(where, lambda on_step: self.role(on_step).adopt(self.head))
        else:
            self.role().adopt(self.head)

    def rewinding(self, where: str) -> None:
        """It was going back to the fork."""
        self.adopted()
        chains = []
        for region, directory in ((self, self.files.path), (self.lima, self.directory)):
            chain = Chain.__new__(Chain)  # its journal is open already
            chain.directory, chain.kind, chain.journal = directory, PostgresKind(region.dsn), region.journal
            chain.history = HistoryIndex(directory / "history.sqlite3", region.journal)
            chain.history.open()
            chains.append(chain)
        fork, seal = trio.run(sealed, chains[0], chains[1])

        def rewind(on_step: Callable[[str], None]) -> None:
            replica = PostgresReplica(self.dsn)
            Rewind(self.files, self.journal, chains[0].history, replica, STRAND, probe=on_step).run(seal, fork)

        killed_at(where, rewind)
        for chain in chains:
            chain.history.close()

    def promoting(self, where: str) -> None:
        """Its promotion was cut off."""
        self.fence()
        self.role_is(RoleState.PROMOTING, "replica")
        killed_at(where, lambda on_step: self.role(on_step).promote(2))

    def lose(self, *files: Path) -> None:
        """Files are gone."""
        self.journal.close()
        for file in files:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{file}{suffix}").unlink(missing_ok=True)
        self.open()
        if self.path in files:
            self.journal.close()
            self.path.unlink()

    def damage(self, file: Path) -> None:
        """A file holds something else."""
        self.journal.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{file}{suffix}").unlink(missing_ok=True)
        file.write_bytes(b"this is no file of ours" * 400)

    def drop_slot(self) -> None:
        self.do(f"SELECT pg_drop_replication_slot('{self.options.slot}')")

    def empty_database(self) -> None:
        self.do("DROP SCHEMA replicator CASCADE", "DROP TABLE accounts, audit")


class Deployment:
    """The region to copy, and paris as often as it is asked for."""

    def __init__(self, directory: Path, new_database: Callable[[], str]) -> None:
        self.directory = directory
        self._new_database = new_database
        self.ports = {name: free_port() for name in ("lima", "paris")}
        lima_dsn = new_database()
        self.lima_config = self._config("lima", lima_dsn, directory / "lima")
        self.lima_config.region.files.path.mkdir(parents=True)
        self.lima = Region(directory / "lima", lima_dsn)
        self.lima.journal.close()
        self.lima.path = self.lima_config.region.files.journal
        self.lima.options = self.lima.options.__class__(lima_dsn, slot="lima")
        self.lima.journal = Journal(self.lima.path)
        self.lima.journal.open()
        self.lima.do(*SCHEMA)
        self.first = Region(directory, new_database())
        follow(self.lima, self.first)
        self.first.journal.close()
        self.lima.role().promote(3)  # somebody has led in between: paris, if a state says so
        self.lima.do(*MORE)
        self.lima.capture()

    def _config(self, name: str, dsn: str, directory: Path) -> Config:
        urls = ", ".join(f'{other} = "http://127.0.0.1:{port}"' for other, port in self.ports.items())
        role, slot = ("primary", "lima") if name == "lima" else ("replica", f"paris{conninfo_to_dict(dsn)['dbname']}")
        text = f"""
[region]
name = "{name}"
role = "{role}"
data_dir = "{directory}"
[http]
listen = "127.0.0.1:{self.ports[name]}"
[source]
kind = "postgres"
dsn = "{dsn}"
slot = "{slot}"
heartbeat = "200ms"
sequences = "300s"
[feed]
heartbeat = "200ms"
[cluster]
regions = {{ {urls} }}
[lease]
kind = "static"
path = "{self.directory / "lease.json"}"
ttl = "3s"
margin = "200ms"
[failover]
mode = "automatic"
quiet = "100ms"
suspect = "3s"
"""
        path = self.directory / f"{name}-{role}.toml"
        path.write_text(text)
        return parse(text, path, {})

    def paris(self) -> Paris:
        """Paris, a replica that stood at the fork."""
        dsn = self._new_database()
        name, template = (str(conninfo_to_dict(each)["dbname"]) for each in (dsn, self.first.dsn))
        with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name}".encode())
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        directory = self.directory / f"paris-{name}"
        directory.mkdir()
        shutil.copy(self.first.path, directory / "journal.sqlite3")
        return Paris(self.directory, dsn, self._config("paris", dsn, directory), self.lima)


def states() -> dict[str, Callable[[Paris], None]]:
    """What can have become of paris, all of which is made whole by ``--replace``."""
    table: dict[str, Callable[[Paris], None]] = {
        "a replica": lambda paris: None,
        "a replica without its journal": lambda paris: paris.lose(paris.path),
        "a replica with a damaged journal": lambda paris: paris.damage(paris.path),
        "a replica whose database is empty": Paris.empty_database,
        "a spool that is not ours": lambda paris: paris.damage(paris.files.spool),
        "a role that cannot be read": lambda paris: paris.damage(paris.files.role),
        "a copy that cannot be read": lambda paris: paris.damage(paris.files.partial_copy),
        "an intent that cannot be read": lambda paris: paris.damage(paris.files.rewind),
        "rows that somebody else wrote": lambda paris: paris.do(
            f"{APP}; INSERT INTO accounts VALUES (1000, 1); INSERT INTO audit VALUES ('theirs', 1, 9, 9);"
            " DELETE FROM accounts WHERE id = 7; UPDATE accounts SET balance = -1 WHERE id = 8"
        ),
        "places that are gone": lambda paris: paris.do("ALTER TABLE audit DROP COLUMN _sequence, DROP _ordinal"),
        "places that are gone, and published": lambda paris: paris.do(
            "ALTER TABLE audit DROP COLUMN _sequence, DROP _ordinal", "CREATE PUBLICATION theirs FOR ALL TABLES"
        ),
        "a killed primary": Paris.led,
        "back, and not rewound": Paris.adopted,
    }
    for state in RoleState:
        table[f"a replica that was {state}"] = lambda paris, state=state: paris.role_is(state, "replica")  # type: ignore[misc]
    for where in ("before SEQUENCES", "after TABLES", "within PUBLICATION", "after SLOT", "after BEGIN", "after EPOCH"):
        table[f"promoted, {where}"] = lambda paris, where=where: paris.promoting(where)  # type: ignore[misc]
    for where in ("after TAKE", "after SLOT", "after PUBLICATION"):
        table[f"coming back, {where}"] = lambda paris, where=where: paris.adopted(where)  # type: ignore[misc]
    for where in ("after intent", "after tables", "after requests", "after history", "after journal", "checked"):
        table[f"going back, {where}"] = lambda paris, where=where: paris.rewinding(where)  # type: ignore[misc]
    return table
