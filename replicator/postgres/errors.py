"""What PostgreSQL's errors mean: one table over SQLSTATE, and the names that each kind of session gives them.

Guarantee: an SQLSTATE means the same to every session of the sidecar. Either trying again can succeed without a person
(Unavailable), or it cannot be expected to (Halted). What is not in the table halts: nothing is known that would cure
it. No message holds a password or a dsn.

``SessionReasons`` are names and cures only: replay calls a constraint that refuses a row ``replica_refused_row``, by
which the statement can go to the quarantine; the decision between waiting and halting is the table's alone.

The classes: PostgreSQL's manual, Appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psycopg

from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.format.evolution import RESYNC


class Meaning(NamedTuple):
    """What an SQLSTATE means: the kind of error, and what a person can do."""

    error: type[Unavailable] | type[Halted]
    cure: str


_LATER = Meaning(Unavailable, "it goes on by itself once the cause is gone")
_IN_USE = Meaning(Unavailable, "end the session that holds it (see pg_locks, pg_stat_activity); then it goes on")
_LIMIT = Meaning(Halted, "a limit that the server is configured with is reached: see the message")
_LOGIN = Meaning(Halted, "check user, password and database in the dsn, and pg_hba.conf")
_REFUSED = Meaning(Halted, "the database refuses what is written: see the message")
_DAMAGED = Meaning(Halted, "check the server's log and disk")
_OTHER = Meaning(Halted, "see the message and the server's log")

# By code where it differs from its class, else by class; ``_OTHER`` for all the rest, which includes statements that
# are wrong (42, 0A, 26, 34 …): the same statement would be sent again.
MEANINGS: Mapping[str, Meaning] = {
    "08": _LATER,  # connection: cut, refused, broken off
    "22": _REFUSED,  # data: a value that the type cannot hold
    "23": _REFUSED,  # integrity constraint
    "25006": Meaning(Unavailable, "point the dsn at the server that takes writes"),  # a standby: until its promotion
    "25P03": _LATER,  # our session was ended: idle in a transaction
    "25P04": _LATER,  # our session was ended: transaction_timeout
    "27": _REFUSED,  # triggered data change
    "28": _LOGIN,  # authorization
    "38": _REFUSED,  # raised by a function in another language, as P0 is by one in PL/pgSQL
    "3D": _LOGIN,  # no such database
    "40": _LATER,  # rolled back: deadlock, serialization
    "42501": Meaning(Halted, "grant the sidecar's role what the message names"),
    "53": _LATER,  # resources: connections, memory
    "53100": Meaning(Unavailable, "free disk space on the server; it goes on by itself"),
    "53400": _LIMIT,  # a configured limit, such as max_replication_slots, does not move by waiting
    "54": _REFUSED,  # program limits: a value or row is too large for the server
    "55006": _IN_USE,
    "55P03": _IN_USE,  # a lock was not to be had in the time
    "57": _LATER,  # operator: shutdown, crash, starting up, a dropped database (the next connection tells)
    "57014": Meaning(Unavailable, "look for a lock or a load on the server; it is tried again"),  # cancelled, timed out
    "58": _LATER,  # the system around the server: its disk, its files
    "72": _LATER,  # snapshot too old: the next transaction takes a new one
    "P0": _REFUSED,  # raised in PL/pgSQL
    # Internal error: the server met what its authors thought impossible, damage among it. Nothing says that the next
    # try meets something else, and trying for ever would look like a wait; a person reads the log. The known exceptions
    # are in ``_READ_AS``.
    "XX": _DAMAGED,
}

# What is read as another SQLSTATE: the reported one (empty where libpq tells none), words of the message, and what it
# is read as. Not translated by the server: the words of internal errors. Translated, where lc_messages says so: those
# of a refused login; one that is not recognised counts as a connection that cannot be made, and is tried again.
_READ_AS: Sequence[tuple[str, str, str]] = (
    # A server that is not what it is meant to be for now: a standby, in recovery, or not yet restarted.
    ("55000", "recovery is in progress", "25006"),
    ("55000", "wal_level", "57P03"),
    ("55000", "logical decoding requires", "57P03"),
    # A value or a row that is too large for the form in which it would be sent.
    ("XX000", "invalid memory alloc request size", "54000"),
    # A race with somebody's DDL that was lost in the catalogs, which the next transaction reads anew.
    ("XX000", "tuple concurrently ", "40001"),
    ("XX000", "cache lookup failed for ", "40001"),
    ("XX000", "could not open relation with OID ", "40001"),
    ("", "password authentication failed", "28P01"),
    ("", "no password supplied", "28P01"),
    ("", "authentication failed", "28000"),
    ("", "no pg_hba.conf entry", "28000"),
    ("", "pg_hba.conf rejects", "28000"),
    ("", "not permitted to log in", "28000"),
    ("", "permission denied", "42501"),
    ("", "must be superuser or replication role", "42501"),
    ("", "unrecognized configuration parameter", "42704"),  # of a server older than those we work with
)
_NO_CONNECTION = "08001"
_MISSING = (('role "', "28000"), ('database "', "3D000"))  # … "does not exist"


class SessionReasons(NamedTuple):
    """The reasons that one kind of session gives. ``named`` are (reason, cure) by code or class; an empty cure is the
    table's. ``phrases`` part one code by words of its message: (code, words, reason, cure). ``dsn`` is for a dsn that
    cannot be read."""

    dsn: str
    waits: str
    halts: str
    named: Mapping[str, tuple[str, str]]
    phrases: Sequence[tuple[str, str, str, str]] = ()


LOGICAL = "ALTER SYSTEM SET wal_level = logical; then restart the server; it goes on by itself"
STANDBY = "point the dsn at the server that takes writes, or promote this one; it goes on by itself"
LOCKS = "raise max_locks_per_transaction and restart the server; it goes on by itself"
_SOMEBODY_CHANGED = (
    "replica_table_differs",
    "somebody else changed the table: restore it, or make the region anew: replicator bootstrap CONFIG --replace",
)
_VALUE = ("replica_refused_row", "the replica cannot hold this value: see the message")
_TRIGGER = ("replica_refused_row", "drop the trigger from the replica: the primary has run its own")
REPLICA = SessionReasons(
    dsn="replica_dsn",
    waits="replica_unreachable",
    halts="replica_refused",
    named={
        "22": _VALUE,
        "23": ("replica_refused_row", "drop the constraint from the replica: the primary has checked its own"),
        "25006": ("replica_read_only", ""),
        "25P03": ("replica_slow", ""),
        "25P04": ("replica_slow", ""),
        "27": _TRIGGER,
        "28": ("replica_login", ""),
        "38": _TRIGGER,
        "3D": ("replica_login", "create the database, or name another one in the dsn"),
        "40": ("replica_locked", ""),
        "42501": ("replica_privilege", ""),
        "42703": _SOMEBODY_CHANGED,
        "42P01": _SOMEBODY_CHANGED,
        "42P10": _SOMEBODY_CHANGED,
        "53": ("replica_overloaded", ""),
        "53100": ("disk_full", ""),
        "54": _VALUE,
        "55006": ("replica_locked", ""),
        "55P03": ("replica_locked", ""),
        "57014": ("replica_slow", ""),
        "58": ("replica_io", ""),
        "72": ("replica_slow", ""),
        "P0": _TRIGGER,
        "XX": ("replica_damaged", ""),
    },
    phrases=(("53200", "shared memory", "replica_lock_table_full", LOCKS),),
)
_NEW_COPY = f"{RESYNC}; invalidation_reason in pg_replication_slots, or the server's log, tells why"
SOURCE = SessionReasons(
    dsn="bad_dsn",
    waits="postgres_unavailable",
    halts="postgres_error",
    named={
        "08001": ("postgres_unreachable", ""),
        "28": ("not_authorised", "check user and password of the dsn, and pg_hba.conf (a line for replication too)"),
        "28P01": ("wrong_password", "correct the password in the dsn"),
        "3D": ("no_such_database", "create the database, or correct dbname in the dsn"),
        "42501": ("missing_privilege", "grant the role REPLICATION, SELECT on the tables and CREATE on the database"),
        "42704": ("missing_object", "see preflight: a slot or publication is gone"),
        "42P01": ("no_such_table", "check the configured tables"),
        "25006": ("server_in_recovery", STANDBY),
        "54": ("value_too_large", ""),
        "55006": ("slot_active", ""),
    },
    phrases=(
        ("57P03", "wal_level", "wal_level", LOGICAL),
        ("57P03", "logical decoding requires", "wal_level", LOGICAL),
        ("53400", "replication slots", "no_free_slot", "raise max_replication_slots or drop a slot that nobody uses"),
        ("53200", "shared memory", "lock_table_full", LOCKS),
        ("55000", "replication slot", "slot_lost", _NEW_COPY),
        ("55000", "can no longer", "slot_lost", _NEW_COPY),
    ),
)
_SET_UP_ANEW = ("fence_missing", "restart the sidecar: it sets the fence up at its start")
FENCE = SessionReasons(
    dsn="fence_dsn",
    waits="fence_unavailable",
    halts="fence_refused",
    named={
        "08001": ("fence_unreachable", ""),
        "28": ("fence_login", ""),
        "3D": ("fence_login", ""),
        "3F000": _SET_UP_ANEW,
        "42501": (
            "fence_privilege",
            "let the sidecar's role be a superuser, or see preflight for what it needs",
        ),
        "42883": _SET_UP_ANEW,
        "42P01": _SET_UP_ANEW,
        "55P03": ("fence_locked", ""),
    },
)


def meaning_of(state: str) -> Meaning:
    """What an SQLSTATE means."""
    return MEANINGS.get(state) or MEANINGS.get(state[:2]) or _OTHER


def state_of(error: psycopg.Error) -> str:
    """The SQLSTATE that an error is to be judged by: what the server reported, or should have; empty for a misuse of
    the library."""
    reported, message = error.sqlstate or "", str(error)
    for said, words, state in _READ_AS:
        if said == reported and words in message:
            return state
    if reported or not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return reported
    return next(
        (state for words, state in _MISSING if words in message and "does not exist" in message), _NO_CONNECTION
    )


def translation(error: psycopg.Error, place: str, reasons: SessionReasons) -> ReplicatorError:
    """The error of ours that ``error`` stands for."""
    state, message = state_of(error), str(error).strip()
    meaning = meaning_of(state)
    reason, cure = reasons.named.get(state) or reasons.named.get(state[:2]) or ("", "")
    for code, words, *named in reasons.phrases:
        if code == state and words in message:
            reason, cure = named
            break
    default = reasons.waits if meaning.error is Unavailable else reasons.halts
    told = f"{message} (SQLSTATE {error.sqlstate})" if error.sqlstate else message
    return meaning.error(reason or default, told, place=place, cure=cure or meaning.cure)
