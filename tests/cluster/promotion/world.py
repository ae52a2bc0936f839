"""Regions of a PostgreSQL ledger without their sidecars: journals, databases, and what moves blocks between them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from replicator.cluster.promotion import PostgresRole
from replicator.errors import Unavailable
from replicator.format.position import Position
from replicator.format.statement import unpack_bodies
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.postgres import PostgresReplica
from replicator.pipeline.sources.postgres import PostgresOptions
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal

STRAND = "main"
RESERVE = 1000


class Region:
    """A database and a journal. What was done to the ledger here arrives elsewhere by ``ship``."""

    def __init__(self, directory: Path, dsn: str, **options: Any) -> None:
        self.dsn = dsn
        self.path = directory / f"{conninfo_to_dict(dsn)['dbname']}.sqlite3"
        self.journal = Journal(self.path)
        self.journal.open()
        self.options = PostgresOptions(dsn, slot=str(conninfo_to_dict(dsn)["dbname"]), **options)

    def role(self, on_step: Callable[[str], None] = lambda where: None, reserve: int = RESERVE) -> PostgresRole:
        return PostgresRole(self.dsn, self.journal, STRAND, self.options, reserve=reserve, on_step=on_step)

    @property
    def head(self) -> Position:
        return self.journal.head(STRAND)

    def do(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return sorted(self.ask(f"SELECT {columns} FROM {table}"), key=repr)

    def capture(self, seconds: float = 30.0, **how: Any) -> None:
        """Everything that was committed comes into the journal."""
        role = self.role()

        async def capture() -> None:
            await role.capture_rest(JournalHead(self.head), seconds, **how)

        trio.run(capture)

    def replay(self) -> None:
        """The database follows the journal to its end."""
        with self.replaying() as replay:
            replay()

    @contextlib.contextmanager
    def replaying(self) -> Iterator[Callable[[], None]]:
        """Sessions that go on, as a sidecar's do: a call follows the journal to its end."""
        replica = PostgresReplica(self.dsn)
        replayer = Replayer(self.journal, replica, STRAND, 1 << 20, 1000)

        def replay() -> None:
            for again in (True, False):
                try:
                    if not replayer.is_open:
                        replayer.open()
                    while replayer.applied.position.sequence < self.head.sequence:
                        replayer.step()
                    return
                except Unavailable:
                    if not again:
                        raise

        try:
            yield replay
        finally:
            replica.close()

    def statements(self, after: int) -> list[list[Any]]:
        """Of all blocks behind a sequence, none of them large."""
        blocks = self.journal.blocks(STRAND, after, 1 << 30)
        return [statement for _, statements in unpack_bodies(blocks) for statement in statements]

    def close(self) -> None:
        self.journal.close()
        with psycopg.connect(self.dsn, dbname="postgres", autocommit=True) as connection:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                (self.options.slot,),
            )


def reopened(region: Region) -> Region:
    """The same region as a new process finds it."""
    again = object.__new__(Region)
    again.dsn, again.path, again.options = region.dsn, region.path, region.options
    again.journal = type(region.journal)(region.path)
    again.journal.open()
    return again


def ship(source: Region, target: Region) -> None:
    """Blocks that one journal has and the other has not."""
    blocks = source.journal.blocks(STRAND, target.head.sequence, 1 << 30)
    assert all(block.body is not None for block in blocks)
    target.journal.accept(STRAND, blocks)


def follow(source: Region, target: Region) -> None:
    """Capture, ship, replay."""
    source.capture()
    ship(source, target)
    target.replay()


def killed_at(where: str, work: Callable[[Callable[[str], None]], object]) -> bool:
    """Do ``work(on_step)`` in a process of its own that dies by SIGKILL when it comes to ``where``; whether it did."""

    def on_step(here: str) -> None:
        if here == where:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            work(on_step)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)
