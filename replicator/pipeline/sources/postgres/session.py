"""Sessions with the database that is a source: the one session layer, as the options say."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from types import MappingProxyType

import trio

from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.postgres.errors import SOURCE
from replicator.postgres.session import Connection, Database, Worker
from replicator.postgres.settings import APPLICATION_NAME, READ_WRITE

SENDER_TIMEOUT_SECONDS = 60


def standby_name(options: PostgresOptions) -> str:
    """What the server knows our sessions by: for ``synchronous_standby_names``, and for the fence, which lets them
    be."""
    return f"{APPLICATION_NAME} {options.slot}"


def database(options: PostgresOptions) -> Database:
    """The source's database. Opens nothing."""
    return Database(options.dsn, SOURCE, name=standby_name(options), connect_seconds=options.connect_seconds)


def purpose(options: PostgresOptions) -> dict[str, str]:
    """What a source's sessions are set to beside what all are."""
    return {
        **READ_WRITE,
        "lock_timeout": f"{round(options.lock_seconds * 1000)}",
        "wal_sender_timeout": f"{SENDER_TIMEOUT_SECONDS}s",
    }


def connect(options: PostgresOptions, *, replication: bool = False) -> Connection:
    """A new session; blocks. Raises Unavailable or Halted."""
    return database(options).connect(purpose(options), replication=replication)


def session(
    options: PostgresOptions, settings: Mapping[str, str] = MappingProxyType({}), *, replication: bool = False
) -> contextlib.AbstractContextManager[Connection]:
    """A session for the length of the block, with these settings beside the usual ones; its errors are translated."""
    return database(options).session({**purpose(options), **settings}, replication=replication)


@contextlib.asynccontextmanager
async def opened(options: PostgresOptions, *, replication: bool = False) -> AsyncIterator[Worker]:
    """A session in a worker thread for the length of the block."""
    connection = await trio.to_thread.run_sync(partial(connect, options, replication=replication))
    try:
        yield Worker(connection, database(options))
    finally:
        connection.close()
