"""Everybody who has sessions with PostgreSQL, as something that runs one statement as that user's code would."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import psycopg
import trio

from replicator.cluster.fencing.session import connect as connect_fence
from replicator.cluster.fencing.session import database_of
from replicator.cluster.promotion.database import alone
from replicator.cluster.rejoin.orphan_receiver import PostgresOrphanReceiver
from replicator.ops.drills.fork_writers import PostgresFork
from replicator.pipeline.replicas.postgres import PostgresReader, PostgresReplica, check
from replicator.pipeline.replicas.postgres.durable import PostgresDurable
from replicator.pipeline.sources.postgres import PostgresOptions
from replicator.pipeline.sources.postgres.session import database, opened, session
from replicator.pipeline.sources.postgres.stream import ReplicationStream
from replicator.postgres.errors import FENCE, REPLICA, SOURCE, SessionReasons
from replicator.postgres.session import Connection, Database
from replicator.verify.repair.point_in_time import PostgresCopy

Texts = list[list[str | None]]


def texts(connection: Connection, statement: str) -> Texts:
    """The rows of a statement as the server printed them."""
    cursor = psycopg.RawCursor(connection)
    cursor.execute(statement.encode())
    result = cursor.pgresult
    assert result is not None
    return [
        [None if (cell := result.get_value(row, column)) is None else cell.decode() for column in range(result.nfields)]
        for row in range(result.ntuples)
    ]


def _replica(dsn: str, statement: str) -> Texts:
    replica = PostgresReplica(dsn)
    replica.open()
    try:
        with replica._database.translated():
            return texts(replica._open, statement)
    finally:
        replica.close()


def _reader(dsn: str, statement: str) -> Texts:
    reader = PostgresReader(dsn)
    try:
        with reader._one_moment():
            return texts(reader._connection, statement)
    finally:
        reader.close()


def _durable(dsn: str, statement: str) -> Texts:
    durable = PostgresDurable(dsn, "main")
    durable._look()
    try:
        with durable._database.translated():
            assert durable._connection is not None
            return texts(durable._connection, statement)
    finally:
        durable._close()


def _check(dsn: str, statement: str) -> Texts:
    with Database(dsn, REPLICA).session(check._SETTINGS) as connection:
        return texts(connection, statement)


def _copy(dsn: str, statement: str) -> Texts:
    with PostgresCopy(dsn)._session() as connection:
        return texts(connection, statement)


def _taking(dsn: str, statement: str) -> Texts:
    from replicator.cluster.rejoin import orphan_receiver

    with PostgresOrphanReceiver(dsn, {})._database.session(orphan_receiver._SETTINGS) as connection:
        return texts(connection, statement)


def _source(dsn: str, statement: str, *, replication: bool = False) -> Texts:
    with session(PostgresOptions(dsn), replication=replication) as connection:
        # A replication connection takes the simple protocol only.
        return texts_simple(connection, statement) if replication else texts(connection, statement)


def texts_simple(connection: Connection, statement: str) -> Texts:
    """As ``texts``, by the protocol of a query without parameters."""
    result = connection.execute(statement.encode()).pgresult
    assert result is not None
    return [
        [None if (cell := result.get_value(row, column)) is None else cell.decode() for column in range(result.nfields)]
        for row in range(result.ntuples)
    ]


def _worker(dsn: str, statement: str) -> Texts:
    async def run() -> Texts:
        async with opened(PostgresOptions(dsn)) as worker:
            return await worker.call(texts, statement)

    return trio.run(run)


def _promotion(dsn: str, statement: str) -> Texts:
    with alone(dsn, PostgresOptions(dsn)) as connection:
        return texts(connection, statement)


def _fence(dsn: str, statement: str) -> Texts:
    async def run() -> Texts:
        connected = await connect_fence(database_of(dsn))
        try:
            return await connected.run(statement)
        finally:
            connected.close()

    return trio.run(run)


def _stream(dsn: str, statement: str) -> Texts:
    """Only what fails: a statement that does not stream is an error of its own."""

    async def run() -> Texts:
        async with opened(PostgresOptions(dsn), replication=True) as worker:
            await ReplicationStream(worker.connection, database(PostgresOptions(dsn))).start(statement)
        return []

    return trio.run(run)


def _drill(dsn: str, statement: str) -> Texts:
    """Only what fails: it writes as an application does."""
    fork = PostgresFork(dsn, "canaries")
    fork._db = fork._database.connect_as_application()
    try:
        with fork._database.translated():
            return texts(fork._db, statement)
    finally:
        fork._db.close()


@dataclasses.dataclass(frozen=True)
class User:
    """Whose session it is, and how it names what it meets."""

    name: str
    run: Callable[[str, str], Texts]
    reasons: SessionReasons


WITH_OUR_SETTINGS = (
    User("replay", _replica, REPLICA),
    User("reader", _reader, REPLICA),
    User("how far a replica is on disk", _durable, REPLICA),
    User("preflight of a replica", _check, REPLICA),
    User("a copy of a moment", _copy, REPLICA),
    User("a primary that takes orphans", _taking, REPLICA),
    User("source", _source, SOURCE),
    User("source in a thread", _worker, SOURCE),
    User("replication connection", partial(_source, replication=True), SOURCE),
    User("promotion", _promotion, SOURCE),
    User("fence", _fence, FENCE),
)
ALL = (*WITH_OUR_SETTINGS, User("stream", _stream, SOURCE), User("drill", _drill, REPLICA))
