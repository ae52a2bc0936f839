"""What every session is set to, so that it works the same whatever the server, the database and the role have.

Guarantee: the settings come with the connection itself (libpq's ``options``), so no statement runs before them, RESET
and DISCARD bring them back, and a replication connection has them too. Each is here with its reason. A session adds
what its purpose needs; it changes none of ``CANONICAL``.

They reach the server only if nothing between drops them: a pooler does.
"""

from __future__ import annotations

from collections.abc import Mapping

APPLICATION_NAME = "replicator"  # or "replicator …": by this the fence knows whose sessions it must not end

CANONICAL = {
    # How values are printed. Digests, keys and row images compare these texts, so all readers must print alike.
    "DateStyle": "ISO, MDY",  # MDY: how a date that is not ISO would be read
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",  # the shortest text that reads back as the same number
    "bytea_output": "hex",
    "lc_monetary": "C",  # money
    # regclass, regtype and format_type leave out the schemas on the path: with nothing else on it a name outside
    # pg_catalog always carries its schema. PostgreSQL's own apply worker has an empty path for its safety, too: what a
    # user creates in a schema is never taken for a function or an operator of the server's.
    "search_path": "pg_catalog",
    "quote_all_identifiers": "off",  # regclass again
    # How those texts are read back.
    "xmloption": "content",  # takes documents and fragments alike
    "array_nulls": "on",  # NULL in an array is a null, not a text
    "standard_conforming_strings": "on",  # a backslash in a literal is a backslash (``quoting.literal``)
}

PREDICTABLE = {
    # What a role or a database may be set to that would hide rows, change what is seen, or end a session of ours.
    "row_security": "off",  # where a policy would hide rows: an error instead of a smaller table
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",  # who needs a bound gives its own
    "lock_timeout": "0",  # likewise
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "synchronous_commit": "local",  # a commit of ours would wait for a synchronous standby: perhaps for us
    "jit": "off",  # compiling takes longer than any of our statements
}

# As ``PREDICTABLE``, of servers from this version on: an older one refuses a connection that names what it lacks. They
# are set once there is one.
SINCE = {170000: {"transaction_timeout": "0"}}  # a first copy, and a batch of replay, take as long as they take

# Purposes.
WRITER = {"replicator.writer": "on"}  # the fence lets these sessions write (``cluster/fencing/gate_sql``)
READ_ONLY = {"default_transaction_read_only": "on"}
# A replica's session has neither: a database that somebody has marked read-only, such as a finished copy of a moment,
# is left alone.
READ_WRITE = {"default_transaction_read_only": "off"}


def session_settings(purpose: Mapping[str, str]) -> dict[str, str]:
    """Everything that a session is set to. ``purpose`` may say otherwise than ``PREDICTABLE``, not than
    ``CANONICAL``."""
    assert not purpose.keys() & CANONICAL.keys(), "text is canonical in every session"
    return {**CANONICAL, **PREDICTABLE, **purpose}


def later_settings(version: int) -> dict[str, str]:
    """What a session is set to beside that, at a server of this version."""
    return {name: value for since, them in SINCE.items() if version >= since for name, value in them.items()}


def as_options(settings: Mapping[str, str]) -> str:
    """As libpq's ``options`` take them, where spaces part and backslashes escape."""
    escaped = {name: value.replace("\\", "\\\\").replace(" ", "\\ ") for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())
