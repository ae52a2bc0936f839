"""A database as one kind of user reaches it, its blocking sessions, and the thread that a session is confined to.

Guarantee: a server that does not take a connection, or stops answering, becomes Unavailable after a bounded time. A
worker thread that uses a session is never abandoned: when the caller is cancelled the statement is cancelled in the
server, and the thread comes back. No message holds a password or a dsn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.errors import Halted, ReplicatorError
from replicator.postgres.errors import SessionReasons, translation
from replicator.postgres.settings import APPLICATION_NAME, as_options, later_settings, session_settings

OLDEST_VERSION = 140000
CONNECT_SECONDS = 10
PEER_SECONDS = 30  # how long what was sent may stay without the peer's acknowledgement
CANCEL_SECONDS = 5
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]


def place_of(dsn: str) -> str:
    """The database that a dsn names, for people: host, port and database; no user, no password."""
    try:
        fields = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "PostgreSQL"
    host = fields.get("host") or fields.get("hostaddr") or "local socket"
    return f"PostgreSQL {host}:{fields.get('port') or 5432}/{fields.get('dbname') or fields.get('user') or ''}"


class Database:
    """Where a database is, what its server knows us by (``name``), and how its errors are named. Opens nothing."""

    def __init__(
        self,
        dsn: str,
        reasons: SessionReasons,
        *,
        name: str = APPLICATION_NAME,
        connect_seconds: float = CONNECT_SECONDS,
        peer_seconds: float = PEER_SECONDS,
    ) -> None:
        self._dsn = dsn
        self._reasons = reasons
        self._name = name
        self._connect_seconds = connect_seconds
        self._peer_seconds = peer_seconds
        self.place = place_of(dsn)

    def connect(
        self, purpose: Mapping[str, str] = _NO_SETTINGS, *, replication: bool = False, name: str | None = None
    ) -> Connection:
        """A new session in autocommit with our settings and those of its purpose; blocks. With ``replication`` it takes
        replication commands, too. Raises Unavailable or Halted."""
        connection = self._connect(session_settings(purpose), replication=replication, name=name)
        with self.translated():
            for setting, value in later_settings(connection.info.server_version).items():
                connection.execute(f"SET {setting} = {value}".encode())
        return connection

    def connect_as_application(self, settings: Mapping[str, str] = _NO_SETTINGS) -> Connection:
        """A session as an application has it: with what server, database and role are set to, but for these. Its values
        are not canonical."""
        return self._connect(settings, replication=False, name=None)

    @contextlib.contextmanager
    def session(self, purpose: Mapping[str, str] = _NO_SETTINGS, *, replication: bool = False) -> Iterator[Connection]:
        """A session for the length of the block, its errors translated."""
        with contextlib.closing(self.connect(purpose, replication=replication)) as connection, self.translated():
            yield connection

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise what psycopg raises within the block as Unavailable or Halted, naming the database."""
        try:
            yield
        except psycopg.Error as error:
            raise self.translation(error) from error

    def translation(self, error: psycopg.Error) -> ReplicatorError:
        """The error of ours that psycopg's stands for."""
        return translation(error, self.place, self._reasons)

    def _connect(self, settings: Mapping[str, str], *, replication: bool, name: str | None) -> Connection:
        fields = self._fields()
        defaults: dict[str, Any] = {
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": round(self._peer_seconds * 1000),
        }
        fixed: dict[str, Any] = {
            "application_name": name or self._name,
            "client_encoding": "UTF8",
            "connect_timeout": max(2, round(self._connect_seconds)),  # libpq's least
            "options": f"{fields.get('options') or ''} {as_options(settings)}".strip(),  # the last one counts
        }
        if replication:
            fixed["replication"] = "database"
        with self.translated():
            return psycopg.connect(make_conninfo("", **{**defaults, **fields, **fixed}), autocommit=True)

    def _fields(self) -> dict[str, Any]:
        try:
            return dict(conninfo_to_dict(self._dsn))
        except psycopg.ProgrammingError:  # its message quotes the dsn, perhaps the password
            cure = "write it as host=… dbname=… or postgresql://…"
            raise Halted(self._reasons.dsn, "the dsn cannot be read", place=self.place, cure=cure) from None


class Worker:
    """One session, used by one worker thread at a time."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self.connection = connection
        self.place = database.place
        self._database = database
        self._lock = trio.Lock()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """``function(connection, *args)`` in a worker thread, psycopg's errors translated."""
        async with self._lock:
            return await _in_thread(self.connection, self._translated, function, *args)

    def _translated(self, function: Callable[..., T], *args: Any) -> T:
        with self._database.translated():
            return function(self.connection, *args)


async def _in_thread(connection: Connection, function: Callable[..., T], *args: Any) -> T:
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
        connection.cancel_safe(timeout=CANCEL_SECONDS)
    except psycopg.Error:
        connection.close()
