"""Time travel: a replica as of a moment, built from the region's journal into a database of its own.

Guarantee: it holds the whole prefix of the chain before the first block that was committed after the moment, exactly
as a replica does that stopped there. Clocks jump, so that is said in chain order: what is behind such a block is not in
it, whatever its time. The journal is only read. Killed, it goes on where it was when it is asked for the same moment
again; at its end the copy is marked read-only: against accidents, not against who may change files or settings.

What it was made for is kept in the copy beside the position, in a table ``moment`` (``_replicator_moment`` in SQLite).
A database that holds something else is never written to: not the live replica's either, for it has no such table.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from replicator.errors import ConfigError, Halted
from replicator.format.position import Position, genesis
from replicator.ledger.presentation import show_time
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import AppliedMark, Replica
from replicator.pipeline.replicas.postgres import PostgresReplica
from replicator.pipeline.replicas.sqlite import SqliteReplica
from replicator.postgres.catalog import exists
from replicator.postgres.errors import REPLICA
from replicator.postgres.session import Connection, Database
from replicator.postgres.settings import READ_WRITE, WRITER
from replicator.storage.journal.reading import JournalReader
from replicator.storage.sqlite import connect, look, translated

BATCH_BYTES = 8_000_000
BATCH_BLOCKS = 5_000

_DSN = re.compile(r"postgres(ql)?://|\s*[a-z_]+\s*=", re.IGNORECASE)


class PointInTime(NamedTuple):
    """The moment that a copy is of: the time that was asked for (µs since 1970), the position there, when its block was
    committed (µs), and whether the journal reaches beyond it: if not, later blocks may belong to it yet."""

    at: int
    position: Position
    committed_at: int
    is_behind: bool


def target(journal: JournalReader, strand: str, at: int) -> PointInTime:
    """Find the moment in a journal. Raises Halted (``journal_begins_later``) if the journal does not begin at the
    strand's first block: half a ledger is never built."""
    base = journal.base(strand)
    if base.sequence:
        raise Halted(
            "journal_begins_later",
            f"the journal begins behind sequence {base.sequence}, so the ledger's earlier rows are not in it",
            place=str(journal.path),
            cure="use the journal of a region that has all blocks (replicator journal verify CONFIG counts them)",
        )
    sequence = journal.sequence_before(strand, at + 1)
    block = journal.block(strand, sequence) if sequence else None
    position = block.position if block else genesis(strand)
    return PointInTime(
        at, position, block.header.committed_at if block else 0, sequence < journal.head(strand).sequence
    )


class CopyDatabase(Protocol):
    """The database that the copy is built in."""

    place: str

    def replica(self) -> Replica: ...
    def claim(self, moment: PointInTime) -> bool:
        """Write down what it is for; gives whether it is finished already. Raises ConfigError if it holds something
        else, or is for another moment."""

    def finish(self, moment: PointInTime) -> str:
        """Mark it as finished and read-only; says against what that protects."""


def copy_into(into: str) -> CopyDatabase:
    """The database that a path or a DSN names: PostgreSQL if it looks like a DSN, else a SQLite file."""
    return PostgresCopy(into) if _DSN.match(into) else SqliteCopy(Path(into))


def build(journal: JournalReader, strand: str, moment: PointInTime, copy: CopyDatabase) -> Iterator[AppliedMark]:
    """Build, or go on building; gives how far it is after each transaction."""
    replica = copy.replica()
    replayer = Replayer(journal, replica, strand, BATCH_BYTES, BATCH_BLOCKS)
    try:
        applied = replayer.open()
        yield applied
        while applied.position.sequence < moment.position.sequence:
            applied = replayer.step(moment.position.sequence)
            yield applied
        if applied.position != moment.position:
            message = f"the copy is at {applied.position}, the moment is {moment.position}"
            raise Halted("beyond_moment", message, place=copy.place, cure="build it anew, in another place")
    finally:
        replica.close()


# -- SQLite

_SQLITE_TABLE = """CREATE TABLE IF NOT EXISTS _replicator_moment (
    strand TEXT PRIMARY KEY, at TEXT NOT NULL, position TEXT NOT NULL, finished INTEGER NOT NULL)"""


class SqliteCopy:
    """See ``CopyDatabase``: a copy in a SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path)

    def replica(self) -> Replica:
        return SqliteReplica(self._path)

    def claim(self, moment: PointInTime) -> bool:
        if self._path.exists() and self._path.stat().st_size:
            with contextlib.closing(look(self._path)) as db, translated(self._path):
                names = [name for (name,) in db.execute("SELECT name FROM sqlite_master")]
                if names and "_replicator_moment" not in names:
                    raise _taken(self.place)
                row = db.execute("SELECT at, position, finished FROM _replicator_moment").fetchone() if names else None
            if row is not None:
                finished = _is_finished(self.place, moment, row)
                if finished:
                    self._protect()
                return finished
        if not self._path.parent.is_dir():
            raise ConfigError(
                "no_directory",
                "its directory is not there",
                place=f"--into {self.place}",
                cure="make it, or name another",
            )
        with contextlib.closing(connect(self._path, synchronous="FULL")) as db, translated(self._path):
            db.execute("BEGIN IMMEDIATE")
            db.execute(_SQLITE_TABLE)
            row = (moment.position.strand, show_time(moment.at), str(moment.position))
            db.execute("INSERT INTO _replicator_moment VALUES (?, ?, ?, 0)", row)
            db.execute("COMMIT")
        return False

    def finish(self, moment: PointInTime) -> str:
        with contextlib.closing(connect(self._path, synchronous="FULL")) as db, translated(self._path):
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.execute("PRAGMA journal_mode = DELETE")  # so that it opens where nobody may write
            db.execute("UPDATE _replicator_moment SET finished = 1")
        self._protect()
        return "the file is read-only: against accidents; its owner and root can change that"

    def _protect(self) -> None:
        mode = self._path.stat().st_mode
        self._path.chmod(mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


# -- PostgreSQL


class PostgresCopy:
    """See ``CopyDatabase``: a copy in a PostgreSQL database of its own."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._database = Database(dsn, REPLICA)
        self.place = self._database.place

    def replica(self) -> Replica:
        return PostgresReplica(self._dsn)

    def claim(self, moment: PointInTime) -> bool:
        with self._session() as db:
            if exists(db, "replicator.moment"):
                row = db.execute("SELECT at, position, finished FROM replicator.moment").fetchone()
                assert row is not None, "it is written with its table"
                return _is_finished(self.place, moment, row)
            user_tables = (
                "SELECT 1 FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relnamespace::regnamespace"
            )
            user_tables += "::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast') LIMIT 1"
            if db.execute(user_tables.encode()).fetchone():
                raise _taken(self.place)
            with db.transaction():
                db.execute("CREATE SCHEMA IF NOT EXISTS replicator")
                db.execute(
                    "CREATE TABLE replicator.moment (strand text PRIMARY KEY, at text NOT NULL, position text NOT NULL,"
                    " finished boolean NOT NULL)"
                )
                row = (moment.position.strand, show_time(moment.at), str(moment.position))
                db.execute("INSERT INTO replicator.moment VALUES (%s, %s, %s, false)", row)
        return False

    def finish(self, moment: PointInTime) -> str:
        with self._session() as db:
            answer = db.execute("SELECT quote_ident(current_database())").fetchone()
            assert answer is not None
            db.execute(f"ALTER DATABASE {answer[0]} SET default_transaction_read_only = on".encode())
            db.execute("UPDATE replicator.moment SET finished = true")
        return "sessions of the database begin read-only: against accidents; whoever may write can SET that off"

    def _session(self) -> contextlib.AbstractContextManager[Connection]:
        return self._database.session({**WRITER, **READ_WRITE, "lock_timeout": "5s"})


def _taken(place: str) -> ConfigError:
    message = "it holds something else, and a copy of a moment is only built in an empty place"
    return ConfigError("not_empty", message, place=f"--into {place}", cure="name a new file, or an empty database")


def _is_finished(place: str, moment: PointInTime, row: tuple[str, str, object]) -> bool:
    at, position, finished = row
    if position != str(moment.position):
        message = f"it was begun for {at}, {position}; {show_time(moment.at)} is {moment.position}"
        raise ConfigError("another_moment", message, place=f"--into {place}", cure="name another place")
    return bool(finished)


# -- how long it takes


def measured_rate(
    journal: JournalReader, strand: str, moment: PointInTime, path: Path, clock: Callable[[], float], seconds: float
) -> float | None:
    """Blocks a second, by building into a new SQLite file for so many seconds; None if there is nothing to build."""
    replayer = Replayer(journal, replica := SqliteReplica(path), strand, BATCH_BYTES, 1000)
    began = clock()
    try:
        applied = replayer.open()
        while applied.position.sequence < moment.position.sequence and clock() - began < seconds:
            applied = replayer.step(moment.position.sequence)
    finally:
        replica.close()
    return applied.position.sequence / max(clock() - began, 1e-6) or None
