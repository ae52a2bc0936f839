"""Tables stay logged while they are followed: PostgreSQL refuses ``SET UNLOGGED`` and ``SET LOGGED`` for our sake.

What is written to a table while it is not logged is in no stream. PostgreSQL itself refuses ``SET UNLOGGED`` for a
table that a publication lists; for one of all tables an event trigger does, where the sidecar's role may create it (a
superuser's right). ``SET LOGGED`` is refused, too: the table's rows would be published from then on, without those that
it has. Looks at the catalogs (``stream_basis``) find both where there is no such trigger, but not what was put back
between two looks.
"""

from __future__ import annotations

from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.postgres.session import Connection

TRIGGER = "replicator_logged_tables"
SCHEMA = "replicator_source"  # not that of a replica's tables, whose role may be another one
_PERSISTENCE = 1  # of the reasons that pg_event_trigger_table_rewrite_reason() gives

_CREATE = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE OR REPLACE FUNCTION {SCHEMA}.keep_logged() RETURNS event_trigger LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
BEGIN
  IF pg_event_trigger_table_rewrite_reason() & {_PERSISTENCE} <> 0 THEN
    RAISE EXCEPTION 'table % is followed by the ledger replicator: it cannot become logged or unlogged',
      pg_event_trigger_table_rewrite_oid()::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
      HINT = 'What an unlogged table gets is in no stream. CREATE TABLE another one, and INSERT its rows there.';
  END IF;
END $$;
CREATE EVENT TRIGGER {TRIGGER} ON table_rewrite EXECUTE FUNCTION {SCHEMA}.keep_logged();
ALTER EVENT TRIGGER {TRIGGER} ENABLE ALWAYS
"""


def is_kept(connection: Connection, options: PostgresOptions) -> bool:
    """Whether no followed table can become unlogged, or logged."""
    if options.tables is not None:
        return True
    row = connection.execute("SELECT evtenabled FROM pg_event_trigger WHERE evtname = %s", [TRIGGER]).fetchone()
    return row is not None and row[0] in ("A", b"A")


def keep_logged(connection: Connection, options: PostgresOptions) -> None:
    """See to it, if the role may; one that was switched off by somebody stays so."""
    exists = connection.execute("SELECT FROM pg_event_trigger WHERE evtname = %s", [TRIGGER]).fetchone() is not None
    may = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (True,)
    if options.tables is None and may and not exists:
        with connection.transaction():
            connection.execute("SET LOCAL replicator.writer = on")  # a closed fence lets us pass
            connection.execute(_CREATE.encode())
