"""Sequences on PostgreSQL: made, tied to their columns, moved forward; never back.

Moving a sequence is not undone by a rollback. That is harmless: it then stands where the next try brings it anyway.
"""

from __future__ import annotations

import psycopg

from replicator.format.definition import Definition
from replicator.pipeline.replicas.base import SetSequence
from replicator.postgres.catalog import exists
from replicator.postgres.quoting import literal, quoted
from replicator.postgres.session import Connection

_ENDS = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


def attach(connection: Connection, definition: Definition) -> None:
    """Columns that a sequence feeds get it as their default; an identity, which is no default, feeds itself."""
    for column in definition.columns:
        if column.sequence is not None and not _is_identity(connection, definition, column.name):
            name = _make(connection, *column.sequence)
            default = f"nextval({literal(name)}::regclass)"
            _execute(
                connection,
                f"ALTER TABLE {quoted(*definition.name)} ALTER COLUMN {quoted(column.name)} SET DEFAULT {default}",
            )


def advance(connection: Connection, step: SetSequence) -> None:
    """The next number comes after ``step.value``."""
    name = _make(connection, step.namespace, step.name)
    now = connection.execute(
        "SELECT seqincrement, seqmin, seqmax, format_type(seqtypid, NULL) FROM pg_sequence"
        " WHERE seqrelid = %s::regclass",
        [name],
    ).fetchone()
    assert now is not None
    increment, low, high, kind = now
    end = _ENDS[kind]
    if increment != step.increment or not low <= step.value <= high:
        _execute(connection, f"ALTER SEQUENCE {name} INCREMENT {step.increment} MINVALUE {-end - 1} MAXVALUE {end}")
    value = min(max(step.value, -end - 1), end)  # one that was a primary's may be narrower than the one that it follows
    ahead = ">" if step.increment > 0 else "<"
    last = _execute(connection, f"SELECT last_value, is_called FROM {name}").fetchone()
    assert last is not None
    if not last[1] or (value > last[0] if ahead == ">" else value < last[0]):
        connection.execute("SELECT setval(%s::regclass, %s, true)", [name, value])
    connection.execute(
        "INSERT INTO replicator.sequence AS s VALUES (%s, %s, %s, %s) ON CONFLICT (namespace, name) DO UPDATE"
        f" SET value = excluded.value, increment = excluded.increment WHERE excluded.value {ahead} s.value".encode(),
        tuple(step),
    )


def _is_identity(connection: Connection, definition: Definition, column: str) -> bool:
    found = connection.execute(
        "SELECT FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s AND attidentity <> ''",
        [quoted(*definition.name), column],
    ).fetchone()
    return found is not None


def _make(connection: Connection, namespace: str, name: str) -> str:
    """The sequence's name as SQL takes it; it is there on return."""
    full = quoted(namespace, name)
    if not exists(connection, full):
        _execute(connection, f"CREATE SCHEMA IF NOT EXISTS {quoted(namespace)}")
        _execute(connection, f"CREATE SEQUENCE IF NOT EXISTS {full}")
    return full


def _execute(connection: Connection, statement: str) -> psycopg.Cursor:
    return connection.execute(statement.encode())
