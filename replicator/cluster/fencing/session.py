"""A session with PostgreSQL whose every step takes a bounded time, on trio and without a thread.

A server that was stopped answers nothing and breaks no connection; whoever has to fence must not wait for it. So only
making a connection, which libpq bounds itself, runs in a thread; statements wait on the socket, under trio's deadlines.

Guarantee: nothing of psycopg escapes. A session that was cancelled or failed in the middle is closed, never used again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.cluster.fencing.sql import NAME
from replicator.errors import Halted, ReplicatorError, Unavailable

CONNECT_SECONDS = 2
_SETTINGS = {
    "replicator.writer": "on",
    "search_path": "pg_catalog",
    "TimeZone": "UTC",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read\\ committed",
    # Where the sidecar is a synchronous standby itself, waiting for it would be waiting for ourselves.
    "synchronous_commit": "local",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # A guard stays when its sidecar is gone: that is what it is for.
    "client_connection_check_interval": "0",
    "jit": "off",
}
Row = list[str | None]


class FenceSession:
    """One connection. Not for two tasks at once."""

    def __init__(self, connection: psycopg.Connection, place: str) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self.place = place
        self.fresh = True  # nothing was sent yet

    @classmethod
    async def connect(cls, dsn: str, name: str = NAME, **settings: str) -> FenceSession:
        """Connect, as ``name``. Raises Unavailable or Halted."""
        place = place_of(dsn)
        fields = _fields(dsn, place)
        ours = " ".join(f"-c {key}={value}" for key, value in {**_SETTINGS, **settings}.items())
        fixed: dict[str, Any] = {
            "application_name": name,
            "client_encoding": "utf8",
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": 10_000,
            "options": f"{fields.get('options') or ''} {ours}".strip(),
        }
        try:
            connection = await trio.to_thread.run_sync(_connect, make_conninfo("", **{**fields, **fixed}))
        except psycopg.Error as error:
            raise fault(error, place) from error
        connection.pgconn.nonblocking = 1
        return cls(connection, place)

    async def run(self, statement: str, *parameters: str | int | None) -> list[Row]:
        """The rows of one statement, as text. Raises Unavailable or Halted."""
        await self.send(statement, *parameters)
        return await self.answer()

    async def send(self, statement: str, *parameters: str | int | None) -> None:
        """Send a statement without waiting for its end."""
        values = [None if value is None else str(value).encode() for value in parameters]
        self.fresh = False
        with _closed_on_error(self):
            self._pgconn.send_query_params(statement.encode(), values)
            while self._pgconn.flush():
                await trio.lowlevel.wait_writable(self._pgconn.socket)

    async def answer(self) -> list[Row]:
        """The rows of the statement that was sent."""
        rows: list[Row] = []
        failure: psycopg.Error | None = None
        with _closed_on_error(self):
            while True:
                while self._pgconn.is_busy():
                    await trio.lowlevel.wait_readable(self._pgconn.socket)
                    self._pgconn.consume_input()
                result = self._pgconn.get_result()
                if result is None:
                    break
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    failure = psycopg.errors.error_from_result(result)
                elif result.status == pq.ExecStatus.TUPLES_OK:
                    rows = [
                        [_text(result.get_value(r, c)) for c in range(result.nfields)] for r in range(result.ntuples)
                    ]
        if failure is not None:
            raise fault(failure, self.place) from failure
        return rows

    @property
    def busy(self) -> bool:
        """Whether a statement still runs, as far as is known without waiting. False for a session that is gone."""
        return not self.gone and bool(self._pgconn.is_busy())

    @property
    def gone(self) -> bool:
        """Whether it cannot be used any more, as far as is known without waiting."""
        with contextlib.suppress(psycopg.Error):
            self._pgconn.consume_input()
            return self._connection.closed or self._pgconn.status == pq.ConnStatus.BAD
        return True

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


@contextlib.contextmanager
def _closed_on_error(session: FenceSession) -> Iterator[None]:
    """What is interrupted in the middle is of no use any more."""
    try:
        yield
    except BaseException as error:
        session.close()
        if isinstance(error, psycopg.Error):
            raise fault(error, session.place) from error
        raise


def _connect(conninfo: str) -> psycopg.Connection:
    return psycopg.connect(conninfo, autocommit=True)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _fields(dsn: str, place: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(dsn))
    except psycopg.ProgrammingError:  # its message may quote the password
        raise Halted(
            "fence_dsn", "the dsn cannot be read", place=place, cure="write it as host=… dbname=… or postgresql://…"
        ) from None


def place_of(dsn: str) -> str:
    """The database, for people: nothing secret."""
    try:
        fields = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "fence"
    return f"fence of PostgreSQL {fields.get('host', 'local')}:{fields.get('port', 5432)}/{fields.get('dbname', '')}"


_BETTER = ("08", "40", "53", "57", "58", "55", "25", "XX")


def fault(error: psycopg.Error, place: str) -> ReplicatorError:
    """What psycopg's error is to us. One without an SQLSTATE is about the connection."""
    message = (error.diag.message_primary or str(error)).strip()
    state = error.sqlstate
    if state is None:
        login = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")
        if any(needle in message for needle in login):
            return Halted("fence_login", message, place=place, cure="check user, password and database in the dsn")
        return Unavailable("fence_unreachable", message, place=place, cure="it goes on once the server answers")
    if state == "55P03":
        cure = "end the session that holds the lock (see pg_locks); then it goes on"
        return Unavailable("fence_locked", message, place=place, cure=cure)
    if state[:2] in _BETTER:
        return Unavailable("fence_unavailable", f"{message} (SQLSTATE {state})", place=place, cure="it is tried again")
    if state == "42501":
        cure = "let the sidecar's role be a superuser, or see preflight for what it needs"
        return Halted("fence_privilege", message, place=place, cure=cure)
    if state in ("42883", "42P01", "3F000"):
        cure = "restart the sidecar: it sets the fence up at its start"
        return Halted("fence_missing", message, place=place, cure=cure)
    return Halted("fence_refused", f"{message} (SQLSTATE {state})", place=place, cure="see the message")


def only(rows: list[Row]) -> str:
    """The only value of the only row; empty for null."""
    ((value,),) = rows
    return value or ""


def quoted(*names: str) -> str:
    """A name, or a name within a schema, as SQL takes it."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def array(texts: Iterable[str]) -> str:
    """An array of texts in its text form."""
    return "{" + ",".join(map(_element, texts)) + "}"


def _element(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
