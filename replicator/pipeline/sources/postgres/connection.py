"""Connections to PostgreSQL: the same settings everywhere, and one blocking connection that trio can use.

Guarantee: values read over any of these connections have the same text, whatever the server, the database or the role
are set to. A worker thread that uses a connection is never abandoned: when the caller is cancelled the statement is
cancelled in the server, and the thread comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.errors import ConfigError
from replicator.pipeline.sources.postgres.faults import translated
from replicator.pipeline.sources.postgres.options import PostgresOptions

SENDER_TIMEOUT_SECONDS = 60

_SETTINGS = {
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "pg_catalog",  # so that names of types and objects always carry their schema
    "row_security": "off",  # an error instead of a filtered copy
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read\\ committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "synchronous_commit": "local",  # a commit of ours would wait for a synchronous standby: for us
}

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]


def place_of(options: PostgresOptions) -> str:
    """Where the ledger is, for messages: host, port and database, nothing secret."""
    fields = _fields(options)
    host = fields.get("host") or fields.get("hostaddr") or "local socket"
    return f"PostgreSQL {host}:{fields.get('port') or 5432}/{fields.get('dbname') or fields.get('user') or ''}"


def standby_name(options: PostgresOptions) -> str:
    """What the server knows our replication connection by, for ``synchronous_standby_names``."""
    return f"replicator {options.slot}"


def connect(options: PostgresOptions, *, replication: bool = False) -> Connection:
    """A new autocommit connection; blocks. ``replication`` makes it one that takes replication commands.

    Raises Unavailable, or Halted for what waiting does not cure.
    """
    fields = _fields(options)
    settings = dict(_SETTINGS)
    settings["lock_timeout"] = f"{round(options.lock_seconds * 1000)}"
    if replication:
        settings["wal_sender_timeout"] = f"{SENDER_TIMEOUT_SECONDS}s"
    ours = " ".join(f"-c {name}={value}" for name, value in settings.items())
    defaults: dict[str, Any] = {
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    }
    fixed: dict[str, Any] = {
        "application_name": standby_name(options),  # by this the fence knows us when it ends sessions
        "client_encoding": "utf8",
        "connect_timeout": max(2, round(options.connect_seconds)),
        "options": f"{fields.get('options') or ''} {ours}".strip(),
    }
    if replication:
        fixed["replication"] = "database"
    with translated(place_of(options)):
        return psycopg.connect(make_conninfo("", **{**defaults, **fields, **fixed}), autocommit=True)


def _fields(options: PostgresOptions) -> dict[str, Any]:
    try:
        return conninfo_to_dict(options.dsn)
    except psycopg.ProgrammingError:  # its message may quote the dsn
        raise ConfigError(
            "bad_dsn", "the connection string cannot be read", cure="write host=… dbname=… or postgresql://…"
        ) from None


class Worker:
    """One connection, used by one worker thread at a time."""

    def __init__(self, connection: Connection, place: str) -> None:
        self.connection = connection
        self.place = place
        self._lock = trio.Lock()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """``function(connection, *args)`` in a worker thread, psycopg's errors translated."""
        async with self._lock:
            return await in_thread(self.connection, self._translated, function, *args)

    def _translated(self, function: Callable[..., T], *args: Any) -> T:
        with translated(self.place):
            return function(self.connection, *args)


async def in_thread(connection: Connection, function: Callable[..., T], *args: Any) -> T:
    """Run ``function(*args)``, which uses ``connection``, in a worker thread; if cancelled, cancel its statement."""
    done = trio.Event()
    results: list[T] = []
    errors: list[Exception] = []

    async def work() -> None:
        try:
            results.append(await trio.to_thread.run_sync(function, *args))
        except Exception as error:
            errors.append(error)
        finally:
            done.set()

    async def watch() -> None:
        try:
            await done.wait()
        finally:
            if not done.is_set():
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(_cancel_quietly, connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(work)
    if errors:
        raise errors[0]
    return results[0]


def _cancel_quietly(connection: Connection) -> None:
    try:
        connection.cancel_safe(timeout=5)
    except psycopg.Error:
        connection.close()


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that is not itself a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
