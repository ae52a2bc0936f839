"""Sessions with a PostgreSQL server: settings that make values read the same everywhere, and errors in our terms.

Guarantee: nothing of psycopg escapes from code under ``translated``; whoever holds a lock against us, or a server that
stops answering, becomes Unavailable after a bounded time, never a hang. No password is in any message.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import psycopg
from psycopg import conninfo, sql

from replicator.errors import Halted, ReplicatorError, Unavailable

CONNECT_SECONDS = 10
_SOCKET = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "UTF8",
}
_SETTINGS = {
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "search_path": "pg_catalog, public",
    "jit": "off",
    # A replica is fenced against applications; this is how it knows us (``cluster/fencing/sql.py``).
    "replicator.writer": "on",
}


def quoted(*names: str) -> str:
    """A name, or a name within a schema, as SQL takes it, whatever is in it."""
    return sql.Identifier(*names).as_string(None)


def place_of(dsn: str) -> str:
    """The database that a dsn names, for people: no user, no password."""
    try:
        fields = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "replica"
    return f"PostgreSQL {fields.get('host', 'local')}:{fields.get('port', 5432)}/{fields.get('dbname', '')}"


def connect(dsn: str, settings: dict[str, str]) -> psycopg.Connection:
    """A session in autocommit with our settings and these. Raises Unavailable or Halted."""
    place = place_of(dsn)
    try:
        conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # its message quotes the dsn, perhaps the password
        raise Halted(
            "replica_dsn", "the dsn cannot be read", place=place, cure="write it as host=… dbname=… or postgresql://…"
        ) from None
    with translated(place):
        connection = psycopg.connect(dsn, autocommit=True, application_name="replicator", **_SOCKET)  # type: ignore[arg-type]  # a mix of numbers and text
        try:
            wanted = {**_SETTINGS, **settings}
            calls = ", ".join(["set_config(%s, %s, false)"] * len(wanted))
            connection.execute(f"SELECT {calls}", [text for pair in wanted.items() for text in pair])
        except BaseException:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise what psycopg raises within as Unavailable or Halted, naming the database."""
    try:
        yield
    except psycopg.Error as error:
        raise translation(error, place) from error


_REFUSED_LOGIN = re.compile(r"authentication failed|no pg_hba\.conf entry|FATAL:.*does not exist|no password supplied")


def translation(error: psycopg.Error, place: str) -> ReplicatorError:
    """What this error is to us."""
    state = error.sqlstate
    message = str(error).strip()
    if state is None:
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return _without_state(message, place)
        return Halted("replica_refused", message, place=place, cure="check the replica's dsn")
    for prefix, (kind, reason, cure) in _BY_STATE.items():
        if state.startswith(prefix):
            return kind(reason, f"{message} (SQLSTATE {state})", place=place, cure=cure)
    return Halted("replica_refused", f"{message} (SQLSTATE {state})", place=place, cure="see the message")


def _without_state(message: str, place: str) -> ReplicatorError:
    """libpq tells no SQLSTATE when a connection cannot be made."""
    if _REFUSED_LOGIN.search(message):
        return Halted("replica_login", message, place=place, cure="check user, password and database in the dsn")
    return Unavailable("replica_unreachable", message, place=place, cure="it goes on once the server answers")


_GOES_ON = "it goes on by itself once the cause is gone"
_BY_STATE: dict[str, tuple[type[Halted] | type[Unavailable], str, str]] = {
    "55P03": (Unavailable, "replica_locked", "end the session that holds the lock (see pg_locks); then it goes on"),
    "40": (Unavailable, "replica_locked", _GOES_ON),
    "57014": (Unavailable, "replica_slow", "look for a lock or a load on the server; it is tried again"),
    "57": (Unavailable, "replica_unreachable", _GOES_ON),
    "08": (Unavailable, "replica_unreachable", _GOES_ON),
    "53100": (Unavailable, "disk_full", "free disk space on the replica's server; it goes on by itself"),
    "53": (Unavailable, "replica_overloaded", _GOES_ON),
    "58": (Unavailable, "replica_io", "check the server's disk and log"),
    "25006": (Unavailable, "replica_read_only", "point the dsn at the server that takes writes"),
    "28": (Halted, "replica_login", "check user, password and database in the dsn"),
    "3D000": (Halted, "replica_login", "create the database, or name another one in the dsn"),
    "42501": (Halted, "replica_privilege", "grant the sidecar's user what the message names"),
    "42P01": (Halted, "replica_table_differs", "somebody else changed the table: restore it, or resync it"),
    "42703": (Halted, "replica_table_differs", "somebody else changed the table: restore it, or resync it"),
    "42P10": (Halted, "replica_table_differs", "somebody else changed the table: restore it, or resync it"),
    "P0": (Halted, "replica_refused_row", "drop the trigger from the replica: the primary has run its own"),
    "27": (Halted, "replica_refused_row", "drop the trigger from the replica: the primary has run its own"),
    "54": (Halted, "replica_refused_row", "the replica cannot hold this value: see the message"),
    "22": (Halted, "replica_refused_row", "the replica cannot hold this value: see the message"),
    "23": (Halted, "replica_refused_row", "drop the constraint from the replica: the primary has checked its own"),
    "XX": (Halted, "replica_damaged", "check the server's log and disk"),
}
