"""The promoted or adopted database, as the steps see it: one session, alone.

Guarantee: while the session is open no sidecar replays into the database, for replay takes the same lock. Its commits
are on the server's disk, whatever the server is set to, and wait for no standby: this region's own sidecar may be one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import psycopg

from replicator.errors import Unavailable
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.pipeline.replicas.postgres.replica import read_applied
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import drop_own_slot, read_slot
from replicator.postgres.catalog import TableName, exists
from replicator.postgres.locks import WRITER_LOCK
from replicator.postgres.session import Connection, place_of
from replicator.postgres.settings import WRITER
from replicator.storage.journal.store import Journal

LOCK_SECONDS = 2.0
SLOT_SECONDS = 30  # a new slot waits for the transactions that are open
ENDING_SECONDS = 5.0  # a reader that was just closed lets go of its slot
LOOK_SECONDS = 0.05


@contextlib.contextmanager
def alone(dsn: str, options: PostgresOptions) -> Iterator[Connection]:
    """A session that owns the database's role. Raises Unavailable while somebody replays into it."""
    here = dataclasses.replace(options, dsn=dsn, lock_seconds=LOCK_SECONDS)
    with session(here, WRITER) as connection:
        try:
            connection.execute("SELECT pg_advisory_lock(%s)", [WRITER_LOCK])
        except psycopg.errors.LockNotAvailable as error:
            raise Unavailable(
                "replica_in_use",
                "somebody replays into this database, so its role cannot change",
                place=place_of(dsn),
                cure="stop replay first; a former session ends by itself",
            ) from error
        yield connection


def drop_slot(options: PostgresOptions, *, ours: bool) -> None:
    """No slot of that name on return. Raises Halted if it is not ours, Unavailable while somebody reads it."""
    until = time.monotonic() + ENDING_SECONDS
    with session(options) as connection:
        while (slot := read_slot(connection, options.slot)) and slot.active and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        drop_own_slot(connection, options.slot, ours=ours)


def replicating(options: PostgresOptions) -> contextlib.AbstractContextManager[Connection]:
    """A replication connection that waits for a bounded time."""
    return session(options, {"statement_timeout": f"{SLOT_SECONDS}s"}, replication=True)


def in_force(journal: Journal, strand: str, at: int | None = None) -> dict[TableName, tuple[int, Definition]]:
    """Each table's relation and definition at a sequence, the journal's end if None."""
    return {
        definition.name: (relation, definition)
        for relation, definition in sorted(journal.definitions(strand, at).items())
    }


def has_own_tables(connection: Connection) -> bool:
    """Whether a sidecar has ever replayed into this database."""
    return exists(connection, "replicator.quarantine")


def stands_at(connection: Connection, journal: Journal, strand: str, position: Position) -> bool:
    """Whether the database has replayed up to there: nothing, or empty blocks only, lie between."""
    applied = read_applied(connection, strand) if has_own_tables(connection) else None
    if applied is None or journal.position_at(strand, applied.position.sequence) != applied.position:
        return False
    after = applied.position.sequence
    between = journal.blocks(strand, after, 1 << 20)  # more than so much between counts as elsewhere: the safe side
    behind = [block for block in between if block.header.sequence <= position.sequence]
    return after + len(behind) == position.sequence and not any(block.header.statements for block in behind)


def open_quarantine(connection: Connection, strand: str) -> list[str]:
    """The tables of which statements are set aside, each with how many."""
    rows = connection.execute(
        "SELECT namespace || '.' || name, count(*) FROM replicator.quarantine WHERE strand = %s AND outcome = ''"
        " GROUP BY 1 ORDER BY 1",
        (strand,),
    )
    return [f"{count} of {label}" for label, count in rows]
