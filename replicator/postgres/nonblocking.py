"""Statements on trio without a thread: libpq's own protocol steps, which wait on the socket and under trio's deadlines.

A server that was stopped answers nothing and breaks no connection; whoever has to fence must not wait for it in a
thread, which cannot be given up. Only making a connection, which libpq bounds itself, runs in one.

Guarantee: nothing of psycopg escapes. A session that was cancelled or failed in the middle is closed, never used again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import psycopg
import trio
from psycopg import pq

from replicator.postgres.session import Connection, Database

Row = list[str | None]


class NonblockingSession:
    """One connection to a database. Not for two tasks at once."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._database = database
        self.fresh = True  # nothing was sent yet

    @classmethod
    async def connect(
        cls, database: Database, purpose: Mapping[str, str], name: str | None = None
    ) -> NonblockingSession:
        """Connect, for a purpose (``settings``). Raises Unavailable or Halted."""
        connection = await trio.to_thread.run_sync(lambda: database.connect(purpose, name=name))
        connection.pgconn.nonblocking = 1
        return cls(connection, database)

    async def run(self, statement: str, *parameters: str | int | None) -> list[Row]:
        """The rows of one statement, as text. Raises Unavailable or Halted."""
        await self.send(statement, *parameters)
        return await self.answer()

    async def send(self, statement: str, *parameters: str | int | None) -> None:
        """Send a statement without waiting for its end."""
        values = [None if value is None else str(value).encode() for value in parameters]
        self.fresh = False
        with self._closed_on_error():
            self._pgconn.send_query_params(statement.encode(), values)
            await flush(self._pgconn)

    async def answer(self) -> list[Row]:
        """The rows of the statement that was sent."""
        rows: list[Row] = []
        failure: psycopg.Error | None = None
        with self._closed_on_error():
            while (result := await next_result(self._pgconn)) is not None:
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    failure = psycopg.errors.error_from_result(result)
                elif result.status == pq.ExecStatus.TUPLES_OK:
                    rows = [
                        [_text(result.get_value(r, c)) for c in range(result.nfields)] for r in range(result.ntuples)
                    ]
        with self._database.translated():
            if failure is not None:
                raise failure
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
    def _closed_on_error(self) -> Iterator[None]:
        """What is interrupted in the middle is of no use any more."""
        try:
            with self._database.translated():
                yield
        except BaseException:
            self.close()
            raise


async def flush(pgconn: pq.abc.PGconn) -> None:
    """Wait until what was sent is on its way. Raises psycopg's errors."""
    while pgconn.flush():
        await trio.lowlevel.wait_writable(pgconn.socket)


async def next_result(pgconn: pq.abc.PGconn) -> pq.abc.PGresult | None:
    """Wait for the next result of the statement that was sent; None behind the last. Raises psycopg's errors."""
    while pgconn.is_busy():
        await trio.lowlevel.wait_readable(pgconn.socket)
        pgconn.consume_input()
    return pgconn.get_result()


def only(rows: list[Row]) -> str:
    """The only value of the only row; empty for null."""
    ((value,),) = rows
    return value or ""


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
