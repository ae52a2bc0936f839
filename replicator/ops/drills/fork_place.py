"""Where a fork is made, and how that is thrown away.

Guarantee: what is thrown away is a rehearsal's: a directory and a database whose names say so, and the slot of that
database. A note of it holds no password.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psycopg import conninfo

from replicator.config import Config, parse
from replicator.errors import Corrupt, Halted
from replicator.postgres.errors import REPLICA
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Database
from replicator.storage.data_dir import DataDir
from replicator.transport.endpoint import Endpoint

PREFIX = "replicator_rehearsal_"
SUFFIX = ".fork"
MARK = "rehearsal"


@dataclasses.dataclass(frozen=True, slots=True)
class ForkPlace:
    """Where a fork is made. ``server`` is the dsn of the server for its database; without it, it is a SQLite file.
    ``standby`` is the standby's own configuration, if it is at hand."""

    directory: Path
    name: str
    strand: str
    server: str | None = dataclasses.field(default=None, repr=False)
    standby: Config | None = None

    @property
    def database(self) -> str:
        """The name of the fork's database, and of its slot."""
        return PREFIX + "".join(letter if letter.isalnum() else "_" for letter in self.name.lower())[-40:]

    @property
    def note(self) -> dict[str, Any]:
        """What is needed to throw it away, without a secret."""
        server = None
        if self.server is not None:
            fields = conninfo.conninfo_to_dict(self.server)
            server = conninfo.make_conninfo("", **{name: str(v) for name, v in fields.items() if name != "password"})
        return {"directory": str(self.directory), "server": server, "database": self.database}


def scratch_config(where: ForkPlace, place: Endpoint) -> Config:
    """A replica region's configuration, in the fork's place."""
    environment: dict[str, str] = {}
    lines = [
        "[region]",
        f"name = {_text(f'rehearsal-{where.name}'[:64])}",
        'role = "replica"',
        f"data_dir = {_text(str(where.directory))}",
        f"strand = {_text(where.strand)}",
        "[follow]",
        f"primary = {_text(place.url)}",
        "[replica]",
    ]
    if where.server is None:
        lines += ['kind = "sqlite"', f"path = {_text(str(DataDir(where.directory).ledger_state))}"]
    else:
        lines += ['kind = "postgres"', 'dsn = { env = "FORK" }']
        environment["FORK"] = conninfo.make_conninfo(where.server, dbname=where.database)
    return parse("\n".join(lines), where.directory / "rehearsal.toml", environment)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def create_database(server: str, name: str) -> None:
    """Make an empty database on the server of a dsn. Raises Unavailable or Halted; blocks."""
    with Database(server, REPLICA).session() as db:
        db.execute(f"CREATE DATABASE {quoted(name)}".encode())


def discard(note: Mapping[str, Any], servers: Sequence[str]) -> None:
    """Throw a fork away by its note; done twice it does nothing. ``servers`` are dsns that may hold the password.

    Raises ReplicatorError: then it is still there, and the error names what to do.
    """
    directory, name = Path(str(note["directory"])), str(note["database"])
    if note["server"] is not None:
        # A note is a file that somebody may have edited: nothing is dropped that no rehearsal has named.
        if not name.startswith(PREFIX):
            raise Corrupt("bad_note", f"{name!r} is no rehearsal's database", place=str(directory))
        _drop_database(_with_password(str(note["server"]), servers), name)
    if not directory.name.endswith(SUFFIX):
        raise Corrupt("bad_note", "this is no rehearsal's directory", place=str(directory))
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        message = "the fork's directory cannot be removed"
        raise Halted("fork_left", message, place=str(directory), cure="remove it by hand")


def _with_password(server: str, candidates: Sequence[str]) -> str:
    """The dsn with the password of a candidate that is for the same server: the note holds none."""
    mine = conninfo.conninfo_to_dict(server)
    for candidate in candidates:
        fields = conninfo.conninfo_to_dict(candidate)
        if all(fields.get(name) == mine.get(name) for name in ("host", "port", "user")) and "password" in fields:
            return conninfo.make_conninfo(server, password=fields["password"])
    return server


def _drop_database(server: str, name: str) -> None:
    """Drop the database with its slot, which would keep the server's log for ever."""
    with Database(server, REPLICA).session() as db:
        db.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
            " WHERE slot_name = %s AND active_pid IS NOT NULL",
            (name,),
        )
        db.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (name,))
        db.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)".encode())
