"""A database that was a primary's: its tables are as their users made them, and replay has to get along with them.

Guarantee: in a database that was adopted (``replicator.adopted``) replay fires no trigger and checks no foreign key, or
it does not start: the primary that leads now has run and checked its own. Columns that the database makes by itself are
not written. Tables that replay made have none of all this; a trigger that somebody adds to those fires, and is told of
when it refuses a row.
"""

from __future__ import annotations

import psycopg

from replicator.errors import Halted
from replicator.format.definition import Definition
from replicator.pipeline.replicas.shape import Shape
from replicator.postgres.catalog import exists
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Connection

_FIRING = """
SELECT count(*) FILTER (WHERE t.tgenabled = 'O'),
       array_agg(format('%I on %I.%I', t.tgname, n.nspname, c.relname)) FILTER (WHERE t.tgenabled IN ('A', 'R'))
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE n.nspname <> 'replicator' AND t.tgenabled <> 'D' AND p.pronamespace IS DISTINCT FROM (
       SELECT oid FROM pg_namespace WHERE nspname = 'replicator')
"""


def is_adopted(connection: Connection) -> bool:
    """Whether the database was a primary's, and is a replica's now."""
    if not exists(connection, "replicator.adopted"):
        return False
    return connection.execute("SELECT FROM replicator.adopted LIMIT 1").fetchone() is not None


def silence(connection: Connection) -> None:
    """No trigger and no foreign key on this connection. Raises Halted if the role cannot silence one that is there."""
    row = connection.execute(_FIRING).fetchone()
    assert row is not None
    firing, always = row
    if always:
        raise Halted(
            "trigger_always",
            f"triggers would fire on replay: {', '.join(always)}",
            place="replica",
            cure="ALTER TABLE … ENABLE TRIGGER …, in place of ENABLE ALWAYS or ENABLE REPLICA",
        )
    try:
        connection.execute("SET session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        if not firing:
            return
        raise Halted(
            "replica_privilege",
            f"{firing} triggers and foreign keys would act on replay, and the role may not switch them off",
            place="replica",
            cure="GRANT SET ON PARAMETER session_replication_role TO the role (PostgreSQL 15 and newer), or make it a"
            " superuser",
        ) from None


def generated_columns(connection: Connection, definition: Definition) -> set[str]:
    """The columns that this database makes by itself; a table that replay made has none."""
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attgenerated <> '' AND NOT attisdropped",
        [quoted(*definition.name)],
    )
    return {str(name) for (name,) in found}


def is_partitioned(connection: Connection, definition: Definition) -> bool:
    """Whether the table has partitions; one that replay made has none."""
    query = "SELECT FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'p'"
    return connection.execute(query, [quoted(*definition.name)]).fetchone() is not None


def is_referenced(connection: Connection, name: str) -> bool:
    """Whether a foreign key points to the table: then it cannot be truncated, whatever the session may do."""
    query = "SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass(%s) LIMIT 1"
    return connection.execute(query, [name]).fetchone() is not None


def take_as_is(connection: Connection, definition: Definition, wanted: Shape, found: Shape) -> None:
    """A table that was a primary's has columns of its own making, which the ledger may not know, the primary's own
    types, where replay would have made text, and where its key cannot serve one that does not count."""
    names = {column.name for column in definition.columns}
    for name in generated_columns(connection, definition) - names:
        found.pop(name, None)
    for column in definition.columns:
        if column.name in found and found[column.name][0] == column.type:
            wanted[column.name] = found[column.name][0], wanted[column.name][1]
    if not definition.key:
        for name in wanted.keys() & found.keys():
            wanted[name] = wanted[name][0], found[name][1]
