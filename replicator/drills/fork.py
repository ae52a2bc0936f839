"""A fork of a standby: a copy of it at one exact position, in a place of its own, that can be promoted for trial.

    copy ─▶ drain (what the standby has since) ─▶ compare ─▶ promote ─▶ write ─▶ throw away

Guarantee: nothing of the deployment is written to, and no region hears of the fork: it serves no feed, reports no
position, asks no lease store. Its epoch exists in its own journal only, which is marked as a rehearsal. The steps are
done by the very code that a promotion runs. What throwing it away takes is noted before it is made.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psycopg
import trio
from psycopg import conninfo, sql

from replicator import parts
from replicator.block import Block
from replicator.config import Config, PostgresSource, parse
from replicator.config.roles import source_of
from replicator.copying.bootstrap import Bootstrap
from replicator.copying.bootstrap import Report as CopyReport
from replicator.drills.regions import Place
from replicator.errors import Corrupt, Halted, Unavailable
from replicator.feed.client import FeedClient, Upstream
from replicator.journal.store import Journal
from replicator.journal.tail import Tail
from replicator.ledger.ledger import Ledger
from replicator.ledger.tables import TableDeclaration
from replicator.position import Position
from replicator.promotion import PostgresRole, append_epoch
from replicator.replay.apply import Replayer
from replicator.replicas.base import Reader
from replicator.replicas.postgres import session
from replicator.sources.postgres.options import PostgresOptions
from replicator.verify.evidence import JournalWitness
from replicator.verify.moments import LedgerMoments
from replicator.verify.side import LocalSide
from replicator.wire import Frame, StagedPart

PREFIX = "replicator_rehearsal_"
MARK = "rehearsal"
BATCH_BYTES, BATCH_BLOCKS = 8_000_000, 5_000
CAPTURE_SECONDS = 30.0


class Writing(Protocol):
    """How the promoted fork is written to."""

    async def write(self, number: int) -> None:
        """One canary; it is durable on return."""

    async def held(self) -> int:
        """How many canaries the fork holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Where:
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


class Fork:
    """One fork. The calls come in the order of the picture above; ``close`` it, then ``discard``."""

    def __init__(self, where: Where, place: Place) -> None:
        self.where, self._place = where, place
        self.report = CopyReport()
        self.config = _config(where, place)
        self.journal = Journal(self.config.region.journal_path)
        self._upstream = Upstream(place.url, self.config.region.name, place.token, place.ca)
        self._open_reader: Callable[[], Reader] = parts.reader(self.config, lambda: {})

    async def copy(self, rows_per_second: int | None) -> Position:
        """Copy the standby as it is at one moment; gives its position. Raises ReplicatorError."""
        if self.where.server is not None:
            await trio.to_thread.run_sync(_create_database, self.where.server, self.where.database)
        copying = _Quiet(self.config, self._upstream, replace=False, rate=rows_per_second, report=self.report)
        position = await copying.run()
        await trio.to_thread.run_sync(self._open, position)
        return position

    def _open(self, position: Position) -> None:
        self.journal.open()
        self.journal.set_note(MARK, self.where.name)

    async def drain(self, until: Position) -> int:
        """Fetch and apply what the standby has beyond the copy; gives how many blocks that were."""
        strand = self.where.strand
        begun = self.journal.head(strand).sequence
        if begun < until.sequence:
            async with (
                FeedClient(self._upstream) as client,
                client.range(strand, begun + 1, until.sequence) as frames,
            ):
                async for batch in frames.batches():
                    await trio.to_thread.run_sync(self._store, batch)
        if self.journal.head(strand) != until:
            message = f"the fork came to {self.journal.head(strand)}, the standby is at {until}"
            raise Unavailable("not_drained", message, place=self._place.url, cure="try again")
        await trio.to_thread.run_sync(self._apply, until.sequence)
        return until.sequence - begun

    def _store(self, frames: Sequence[Frame]) -> None:
        strand = self.where.strand
        staged = [(one.sequence, one.number, one.part) for one in frames if isinstance(one, StagedPart)]
        if staged:
            self.journal.stage(strand, staged)
        blocks = [one for one in frames if isinstance(one, Block)]
        if blocks:
            self.journal.accept(strand, blocks)

    def _apply(self, until: int) -> None:
        replica = parts.replica(self.config)
        replayer = Replayer(self.journal, replica, self.where.strand, BATCH_BYTES, BATCH_BLOCKS)
        try:
            applied = replayer.open()
            while applied.position.sequence < until:
                applied = replayer.step(until)
        finally:
            replica.close()

    def side(self) -> LocalSide:
        """The fork as a side of a comparison."""
        strand = self.where.strand
        return LocalSide("fork", LedgerMoments(strand, self._open_reader), JournalWitness(self.journal, None, strand))

    async def close(self) -> None:
        """Let go of the files."""
        await trio.to_thread.run_sync(self.journal.close)

    # -- promoted

    async def promote(self, epoch: int) -> None:
        """The steps of a promotion that are the ledger's: those of its database, then the epoch's first block."""
        if self.where.server is None:
            now_us = time.time_ns() // 1000
            await trio.to_thread.run_sync(append_epoch, self.journal, self.where.strand, epoch, now_us)
            return
        await trio.to_thread.run_sync(self._role().promote, epoch)

    def _role(self) -> PostgresRole:
        return PostgresRole(self._dsn(), self.journal, self.where.strand, self._options())

    def _dsn(self) -> str:
        assert self.where.server is not None
        return conninfo.make_conninfo(self.where.server, dbname=self.where.database)

    def _options(self) -> PostgresOptions:
        """The source's options as the standby would have them, with a slot of the fork's own."""
        source = None if self.where.standby is None else source_of(self.where.standby)
        if isinstance(source, PostgresSource):
            options = parts.postgres_options(source)
            return dataclasses.replace(options, dsn=self._dsn(), slot=self.where.database, tables=None)
        return PostgresOptions(self._dsn(), self.where.database)

    def embedded(self, epoch: int, table: str) -> EmbeddedFork:
        """The embedded ledger on the fork's state."""
        state = self.config.replica
        assert state is not None
        source = source_of(self.config)
        assert source is not None
        assert source.kind == "embedded"
        options = parts.ledger_options(self.config.model_copy(update={"source": source}), source)
        return EmbeddedFork(Ledger(self.journal, self.where.strand, epoch, options), table, self._open_reader)

    def postgres(self, table: str) -> PostgresFork:
        """The fork's database, as an application sees it."""
        return PostgresFork(self._dsn(), table)

    async def capture(self) -> None:
        """Bring what applications have written into the fork's journal, through its slot."""
        tail = Tail(self.journal.head(self.where.strand))
        await self._role().capture_rest(tail, CAPTURE_SECONDS)


class _Quiet(Bootstrap):
    """A copy that nobody will follow from: the standby is not told to keep its journal for it."""

    async def _check_followed(self, position: Position) -> None:
        await trio.lowlevel.checkpoint()


class EmbeddedFork:
    """Canaries into the embedded ledger. ``run`` it while it is written to."""

    def __init__(self, ledger: Ledger, table: str, open_reader: Callable[[], Reader]) -> None:
        self._ledger, self._table, self._open_reader = ledger, table, open_reader

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve writes until cancelled."""
        declaration = TableDeclaration(self._table, ("canary_id",), ("string",), "user_id")
        await self._ledger.run((declaration,), task_status=task_status)

    async def write(self, number: int) -> None:
        document = {"canary_id": f"{number}", "user_id": MARK, "number": number}
        statements = [{"op": "put", "table": self._table, "document": document}]
        await self._ledger.submit(json.dumps({"id": f"{MARK}-{number}", "statements": statements}).encode())

    async def held(self) -> int:
        return await trio.to_thread.run_sync(self._count)

    def _count(self) -> int:
        reader = self._open_reader()
        try:
            found, after = 0, None
            while some := reader.of_user(self._table, MARK, 500, after):
                found += len(some)
                after = [str(some[-1].key["canary_id"])]
            return found
        finally:
            reader.close()


class PostgresFork:
    """Canaries into the fork's database."""

    def __init__(self, dsn: str, table: str) -> None:
        self._dsn = dsn
        self._name = sql.SQL(".").join(sql.Identifier(part) for part in table.split(".", 1))
        self._db: psycopg.Connection | None = None

    async def open(self) -> None:
        """Connect, and make the table if the copy did not bring it."""
        await trio.to_thread.run_sync(self._open)

    def _open(self) -> None:
        with session.translated("the fork's database"):
            self._db = psycopg.connect(self._dsn, autocommit=True, application_name="replicator drill")
        text = (
            "CREATE TABLE IF NOT EXISTS {} (canary_id text PRIMARY KEY, user_id text NOT NULL,"
            " number bigint NOT NULL, amount numeric NOT NULL, currency text NOT NULL)"
        )
        self._execute(sql.SQL(text).format(self._name), ())

    async def write(self, number: int) -> None:
        query = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, 0, '')").format(self._name)
        await trio.to_thread.run_sync(self._execute, query, (f"{MARK}-{number}", MARK, number))

    async def held(self) -> int:
        query = sql.SQL("SELECT count(*) FROM {} WHERE user_id = %s").format(self._name)
        return int(await trio.to_thread.run_sync(self._execute, query, (MARK,)))

    async def close(self) -> None:
        if self._db is not None:
            await trio.to_thread.run_sync(self._db.close)

    def _execute(self, query: sql.Composed, values: tuple[object, ...]) -> Any:
        assert self._db is not None
        with session.translated("the fork's database"):
            cursor = self._db.execute(query, values)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


# -- making its place, and throwing it away


def _config(where: Where, place: Place) -> Config:
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
        lines += ['kind = "sqlite"', f"path = {_text(str(where.directory / 'ledger.sqlite3'))}"]
    else:
        lines += ['kind = "postgres"', 'dsn = { env = "FORK" }']
        environment["FORK"] = conninfo.make_conninfo(where.server, dbname=where.database)
    return parse("\n".join(lines), where.directory / "rehearsal.toml", environment)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _create_database(server: str, name: str) -> None:
    with session.translated(session.place_of(server)):
        db = session.connect(server, {})
        try:
            db.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        finally:
            db.close()


def discard(note: Mapping[str, Any], servers: Sequence[str]) -> None:
    """Throw a fork away by its note; done twice it does nothing. ``servers`` are dsns that may hold the password.

    Raises ReplicatorError: then it is still there, and the error names what to do.
    """
    directory, name = Path(str(note["directory"])), str(note["database"])
    if note["server"] is not None:
        if not name.startswith(PREFIX):
            raise Corrupt("bad_note", f"{name!r} is no rehearsal's database", place=str(directory))
        _drop_database(_with_password(str(note["server"]), servers), name)
    if not directory.name.endswith(".fork"):
        raise Corrupt("bad_note", "this is no rehearsal's directory", place=str(directory))
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        message = "the fork's directory cannot be removed"
        raise Halted("fork_left", message, place=str(directory), cure="remove it by hand")


def _with_password(server: str, candidates: Sequence[str]) -> str:
    mine = conninfo.conninfo_to_dict(server)
    for candidate in candidates:
        fields = conninfo.conninfo_to_dict(candidate)
        if all(fields.get(name) == mine.get(name) for name in ("host", "port", "user")) and "password" in fields:
            return conninfo.make_conninfo(server, password=fields["password"])
    return server


def _drop_database(server: str, name: str) -> None:
    """With its slot, which would keep the server's log for ever."""
    db = session.connect(server, {})
    try:
        with session.translated(f"{session.place_of(server)}, database {name}"):
            db.execute(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
                " WHERE slot_name = %s AND active_pid IS NOT NULL",
                (name,),
            )
            db.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (name,)
            )
            db.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    finally:
        db.close()
