"""Transactions that hold the source up, named for people: by process or prepared name, user, database and age.

A new slot waits until every transaction has ended that was open when it was asked for, in any database of the server. A
slot that is there keeps the log from the beginning of the oldest one on that has written something.

Guarantee: reads only, works on replication connections, and for roles that may not see others' statements: what such a
role is not shown is left out. No statement's text is shown.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from replicator.errors import Unavailable
from replicator.postgres.quoting import literal
from replicator.postgres.session import Connection

HELD_SECONDS = 60.0  # an open transaction that is older holds up a slot that is there
REMIND_SECONDS = 600.0

log = logging.getLogger("replicator.source")

# A transaction holds the lock on its own number; a prepared one has no process. Ages are told by numbers, which also
# those see who are not shown when a transaction began.
_OPEN = """
SELECT x.number, x.pid, coalesce(p.gid, ''), coalesce(a.usename, p.owner, ''), coalesce(a.datname, p.database, ''),
       coalesce(a.state, ''), extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8
  FROM (SELECT transactionid::text AS number, pid, age(transactionid) AS age FROM pg_locks
         WHERE locktype = 'transactionid' AND granted AND pid IS DISTINCT FROM pg_backend_pid()) x
  LEFT JOIN pg_stat_activity a ON a.pid = x.pid
  LEFT JOIN pg_prepared_xacts p ON x.pid IS NULL AND p.transaction::text = x.number
 ORDER BY x.age DESC
"""


class OpenTransaction(NamedTuple):
    """A transaction that has written, or has a number. ``age_seconds`` is None where the role is not shown it."""

    xid: int
    pid: int | None
    gid: str
    user: str
    database: str
    state: str
    age_seconds: float | None

    def __str__(self) -> str:
        prepared = f"the prepared transaction {literal(self.gid)}"
        told = [
            f"user {self.user}" if self.user else "",
            f"database {self.database}" if self.database else "",
            self.state,
            "" if self.age_seconds is None else f"open for {self.age_seconds:.0f} s",
        ]
        what = prepared if self.pid is None else f"the transaction of pid {self.pid}"
        return f"{what} ({', '.join(text for text in told if text)})"

    @property
    def end(self) -> str:
        """How a person ends it."""
        if self.pid is None:
            gid = literal(self.gid)
            return f"COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}, in database {self.database}"
        return f"let it end, or SELECT pg_terminate_backend({self.pid})"


def open_transactions(connection: Connection) -> list[OpenTransaction]:
    """Those that are open now, the oldest first; ours is not among them."""
    rows = connection.execute(_OPEN.encode()).fetchall()  # no parameters: a replication connection takes none
    return [OpenTransaction(int(row[0]), *row[1:]) for row in rows]


def holding_slot(connection: Connection) -> OpenTransaction | None:
    """The oldest open transaction, if it is so old that it holds the slot up."""
    oldest = open_transactions(connection)[:1]
    return next((one for one in oldest if (one.age_seconds or 0) >= HELD_SECONDS), None)


def waits_for(held_by: OpenTransaction, slot: str) -> Unavailable:
    """The error for a slot that cannot be made while a transaction is open."""
    return Unavailable(
        "transaction_open",
        f"a new slot waits until older transactions have ended; the oldest is {held_by}",
        place=f"slot {slot}",
        cure=f"{held_by.end}; then it goes on by itself",
    )


class HeldUp:
    """Tells who holds the source up: ``text`` is for status, and the log hears of each one once, then at intervals."""

    def __init__(self) -> None:
        self.text: str | None = None
        self._told: tuple[int, float] | None = None

    def by(self, held_by: OpenTransaction | None, what: str, now: float) -> str | None:
        """``what`` is held up, by this one or by none; gives the text for status."""
        self.text = None if held_by is None else f"{what} is held up by {held_by}"
        if held_by is None:
            if self._told is not None:
                log.info("%s is not held up any more", what)
            self._told = None
        elif self._told is None or self._told[0] != held_by.xid or now - self._told[1] >= REMIND_SECONDS:
            log.warning("%s (cure: %s)", self.text, held_by.end)
            self._told = held_by.xid, now
        return self.text
