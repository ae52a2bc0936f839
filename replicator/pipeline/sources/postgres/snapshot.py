"""A look at the primary that belongs to an exact block, for verification.

The idea: a transaction's snapshot says which transactions it sees. PostgreSQL lets transactions become visible in
another order than they stand in the log, so a snapshot need not belong to any block; mostly it does. Once the journal
holds everything up to ``lsn``, which is read behind the snapshot, ``last_visible`` tells the block, or that another
snapshot has to be taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.session import database, purpose
from replicator.postgres.lsn import parse_lsn
from replicator.postgres.session import Connection

_XIDS = 1 << 32


class TransactionSnapshot(NamedTuple):
    """Transactions below ``xmin`` are visible, those from ``xmax`` on and those of ``running`` are not.

    The numbers have 64 bits. Every visible transaction ends in the log before ``lsn``.
    """

    xmin: int
    xmax: int
    running: frozenset[int]
    lsn: int

    def sees(self, xid: int) -> bool:
        """Whether the transaction of this 32-bit number is visible: it is the one nearest to ``xmax``."""
        full = self.xmax + (xid - self.xmax + _XIDS // 2) % _XIDS - _XIDS // 2
        return full < self.xmax and full not in self.running


def parse_snapshot(text: str, lsn: int) -> TransactionSnapshot:
    """Read ``xmin:xmax:xid,xid``. Raises ValueError."""
    xmin, xmax, running = text.split(":")
    return TransactionSnapshot(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid), lsn)


def last_visible(snapshot: TransactionSnapshot, blocks: Iterable[tuple[int, str]]) -> int | None:
    """The sequence of the last block that the snapshot sees, if those that it does not see are a suffix of the chain.

    ``blocks`` are (sequence, transaction id) in order, up to one whose origin is at ``snapshot.lsn`` or behind, and
    from one on that is surely visible. None: there is no such block, take another snapshot. Blocks that are no
    transactions (messages, sequences, the copy) change no rows and go with the block before them.
    """
    last: int | None = None
    hidden = False
    for sequence, txid in blocks:
        if txid.isdecimal():
            if not snapshot.sees(int(txid)):
                if last is None:
                    last = sequence - 1
                hidden = True
            elif hidden:
                return None
        if not hidden:
            last = sequence
    return last


def open_snapshot(options: PostgresOptions) -> tuple[Connection, TransactionSnapshot]:
    """A connection in a read-only transaction whose snapshot is fixed, and that snapshot; blocks.

    The caller closes the connection. Raises Unavailable or Halted.
    """
    source = database(options)
    connection = source.connect(purpose(options))
    try:
        with source.translated():
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            visible = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            written = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            assert visible is not None
            assert written is not None
        return connection, parse_snapshot(visible[0], parse_lsn(written[0]))
    except BaseException:
        connection.close()
        raise
