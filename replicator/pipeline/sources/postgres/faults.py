"""PostgreSQL's errors as ours: what can get better is Unavailable, what needs a person is Halted with its cure.

The decision is by SQLSTATE. A failed connection has none; there the server's message is all that there is, and what
is not recognised counts as something that can get better.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from replicator.errors import Halted, ReplicatorError, Unavailable

_CAN_GET_BETTER = ("08", "40", "53", "57", "58", "25", "XX")  # connection, rollback, resources, operator, system
_BETTER_STATES = ("55006", "55P03")  # object in use (an active slot), lock not available

_CURES = {
    "28": ("not_authorised", "check user and password of the dsn, and pg_hba.conf (a line for replication too)"),
    "42501": ("missing_privilege", "grant the role REPLICATION, SELECT on the tables and CREATE on the database"),
    "3D000": ("no_such_database", "check dbname in the dsn"),
    "53400": ("no_free_slot", "raise max_replication_slots or drop a slot that nobody uses"),
    "42704": ("missing_object", "see preflight: a slot or publication is gone"),
    "42P01": ("no_such_table", "check the configured tables"),
}

_CONNECT_HALTS = (
    ("password authentication failed", "wrong_password", "correct the password in the dsn"),
    ("no password supplied", "wrong_password", "give the password through the dsn"),
    ("authentication failed", "not_authorised", "check user and password of the dsn"),
    ("no pg_hba.conf entry", "not_authorised", "add a line for this host, user and replication to pg_hba.conf"),
    ("pg_hba.conf rejects", "not_authorised", "change the line that rejects this host and user in pg_hba.conf"),
    ("permission denied", "missing_privilege", "ALTER ROLE … REPLICATION, and GRANT CONNECT on the database"),
    ("must be superuser or replication role", "missing_privilege", "ALTER ROLE … REPLICATION"),
    ("not permitted to log in", "not_authorised", "ALTER ROLE … LOGIN"),
    ("role ", "not_authorised", "create the role, or correct the user in the dsn"),
    ("database ", "no_such_database", "create the database, or correct dbname in the dsn"),
)


def fault(error: psycopg.Error, place: str) -> ReplicatorError:
    """The error of ours that ``error`` stands for."""
    message = (error.diag.message_primary or str(error)).strip()
    state = error.sqlstate
    if state is None:
        return _connection_fault(error, message, place)
    if state == "55000":
        return _prerequisite(message, place)
    if state in _BETTER_STATES or (state[:2] in _CAN_GET_BETTER and state != "53400"):
        reason = "slot_active" if state == "55006" else "postgres_unavailable"
        return Unavailable(reason, message, place=place, cure="it is tried again by itself")
    reason, cure = (
        _CURES.get(state) or _CURES.get(state[:2]) or ("postgres_error", "see the message and the server log")
    )
    return Halted(reason, f"{message} (SQLSTATE {state})", place=place, cure=cure)


def _connection_fault(error: psycopg.Error, message: str, place: str) -> ReplicatorError:
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Halted("postgres_error", message, place=place, cure="see the message and the server log")
    for needle, reason, cure in _CONNECT_HALTS:
        named = needle in ("role ", "database ")
        if needle in message and (not named or (f'{needle}"' in message and "does not exist" in message)):
            return Halted(reason, message, place=place, cure=cure)
    return Unavailable("postgres_unreachable", message, place=place, cure="it is tried again by itself")


def _prerequisite(message: str, place: str) -> ReplicatorError:
    if "wal_level" in message or "logical decoding requires" in message:
        return Halted("wal_level", message, place=place, cure="set wal_level = logical and restart the server")
    if "replication slot" in message or "can no longer" in message:
        return Halted("slot_lost", message, place=place, cure="resync from a new copy; raise max_slot_wal_keep_size")
    return Halted("postgres_error", message, place=place, cure="see the message and the server log")


@contextlib.contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise psycopg's errors from this block as ours."""
    try:
        yield
    except psycopg.Error as error:
        raise fault(error, place) from error
