"""Triggers and foreign keys of a database that was a primary's: the primary that leads now has run and checked its own.

Guarantee: in a database that was adopted (``replicator.adopted``) replay fires no trigger and checks no foreign key, or
it does not start. Tables that replay made itself have none; a trigger that somebody adds to those fires, and is told of
when it refuses a row.
"""

from __future__ import annotations

import psycopg

from replicator.errors import Halted

_FIRING = """
SELECT count(*) FILTER (WHERE t.tgenabled = 'O'),
       array_agg(format('%I on %I.%I', t.tgname, n.nspname, c.relname)) FILTER (WHERE t.tgenabled IN ('A', 'R'))
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE n.nspname <> 'replicator' AND t.tgenabled <> 'D' AND p.pronamespace IS DISTINCT FROM (
       SELECT oid FROM pg_namespace WHERE nspname = 'replicator')
"""


def is_adopted(connection: psycopg.Connection) -> bool:
    """Whether the database was a primary's, and is a replica's now."""
    if connection.execute("SELECT to_regclass('replicator.adopted')").fetchone() == (None,):
        return False
    return connection.execute("SELECT FROM replicator.adopted LIMIT 1").fetchone() is not None


def silence(connection: psycopg.Connection) -> None:
    """No trigger and no foreign key for this session. Raises Halted if there are any that the role cannot silence."""
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
