"""The replication stream on trio: libpq's copy-both mode, no thread.

Guarantee: reading never blocks the event loop, and status is written by one task only, so that the server hears from
us while the reader waits for somebody else. Libraries' errors come out as ours.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import psycopg
import trio
from psycopg import pq

from replicator.errors import Unavailable
from replicator.postgres.lsn import EPOCH_US
from replicator.postgres.nonblocking import flush, next_result
from replicator.postgres.session import Connection, Database

SILENCE_SECONDS = 90  # the server speaks at least every 30, and answers when asked
XLOG_DATA, KEEPALIVE = b"wk"
_status = struct.Struct(">cQQQqB")
_keepalive = struct.Struct(">QqB")


class ReplicationStream:
    """A replication connection, from START_REPLICATION on."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._database = database
        # One TLS record can hold more than one read takes; what is left then does not make the socket readable.
        self._reads = 3 if self._pgconn.ssl_in_use else 1

    async def start(self, command: str) -> None:
        """Send START_REPLICATION and wait until the server streams."""
        with self._database.translated():
            self._pgconn.nonblocking = 1
            self._pgconn.send_query(command.encode())
            await flush(self._pgconn)
            result = await next_result(self._pgconn)
            if result is None or result.status != pq.ExecStatus.COPY_BOTH:
                raise self._failure(result)

    def reader(self) -> Callable[[], bytes | None]:
        """A function that gives the next message that has arrived already, or None. It raises Unavailable or Halted."""
        get, consume = self._pgconn.get_copy_data, self._pgconn.consume_input

        def next_message() -> bytes | None:
            try:
                size, data = get(1)
                if size > 0:
                    return bytes(data)
                for _ in range(self._reads if size == 0 else 0):
                    consume()
                    size, data = get(1)
                    if size:
                        break
            except psycopg.Error as error:
                raise self._database.translation(error) from error
            if size < 0:
                raise self._ended()
            return bytes(data) if size else None

        return next_message

    async def wait(self) -> None:
        """Wait until something arrives. Raises Unavailable if the server stays silent."""
        with trio.move_on_after(SILENCE_SECONDS) as scope:
            await trio.lowlevel.wait_readable(self._pgconn.socket)
        if scope.cancelled_caught:
            raise Unavailable("stream_silent", f"nothing heard for {SILENCE_SECONDS} s", place=self._database.place)

    async def write_status(self, durable: int, *, ask: bool = False) -> None:
        """Tell the server that everything up to ``durable`` may be forgotten; ``ask`` for an answer."""
        clock = time.time_ns() // 1000 - EPOCH_US
        with self._database.translated():
            self._pgconn.put_copy_data(_status.pack(b"r", durable, durable, durable, clock, ask))
            await flush(self._pgconn)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _ended(self) -> Exception:
        """Why the stream ended."""
        result = self._pgconn.get_result()
        while result is not None and result.status == pq.ExecStatus.COPY_IN:
            self._pgconn.put_copy_end()
            result = self._pgconn.get_result()
        return self._failure(result)

    def _failure(self, result: pq.abc.PGresult | None) -> Exception:
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return self._database.translation(psycopg.errors.error_from_result(result))
        return Unavailable("stream_ended", "the server ended the stream", place=self._database.place)


def read_keepalive(message: bytes) -> tuple[int, bool]:
    """A keepalive's place in the log, and whether it asks for an answer. Raises struct.error."""
    end, _, ask = _keepalive.unpack_from(message, 1)
    return end, bool(ask)
