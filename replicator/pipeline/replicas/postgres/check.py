"""What a PostgreSQL replica needs, looked at before the start. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from replicator.config.finding import Finding, failed
from replicator.errors import ReplicatorError
from replicator.format.definition import Definition
from replicator.pipeline.replicas.postgres import schema
from replicator.pipeline.replicas.postgres.user_schema import ALWAYS_CURE, SILENCE_CURE, firing_triggers
from replicator.pipeline.replicas.shape import table_differs
from replicator.postgres.catalog import exists
from replicator.postgres.errors import REPLICA
from replicator.postgres.session import OLDEST_VERSION, Connection, Database
from replicator.postgres.settings import WRITER

_SETTINGS = {**WRITER, "statement_timeout": "30s", "lock_timeout": "5s"}


def preflight(dsn: str, definitions: Iterable[Definition] = ()) -> list[Finding]:
    """Reachable, writable, tables that can be taken. ``definitions`` are those of the region's journal, if any."""
    database = Database(dsn, REPLICA)
    place = database.place
    try:
        with database.session(_SETTINGS) as connection:
            return [
                Finding("ok", f"{place} answers"),
                *_server(connection, place),
                *_encoding(connection, place),
                *_triggers(connection, place),
                *_tables(connection, place, definitions),
            ]
    except ReplicatorError as error:
        return [failed(error)]


def _server(connection: Connection, place: str) -> list[Finding]:
    findings = []
    if connection.info.server_version < OLDEST_VERSION:
        findings.append(Finding("fail", f"{place} is older than PostgreSQL 14", "upgrade the replica's server"))
    answer = connection.execute(
        "SELECT current_setting('transaction_read_only') = 'on',"
        " has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP'),"
        " has_schema_privilege('public', 'CREATE'), quote_ident(current_user), quote_ident(current_database())"
    ).fetchone()
    assert answer is not None
    read_only, may_create, may_stage, may_create_public, user, database = answer
    if read_only:
        findings.append(Finding("fail", f"{place} takes no writes", "point the dsn at the server that takes writes"))
    for may, what, grant in (
        (may_create, "create schemas", f"GRANT CREATE ON DATABASE {database} TO {user}"),
        (may_stage, "create temporary tables", f"GRANT TEMP ON DATABASE {database} TO {user}"),
        (may_create_public, "create tables in schema public", f"GRANT CREATE ON SCHEMA public TO {user}"),
    ):
        findings.append(
            Finding("ok", f"{user} may {what}") if may else Finding("fail", f"{user} may not {what}", f"run: {grant}")
        )
    return findings


def _encoding(connection: Connection, place: str) -> Iterable[Finding]:
    answer = connection.execute("SELECT current_setting('server_encoding')").fetchone()
    if answer is not None and answer[0] != "UTF8":
        what = (
            f"{place} has the encoding {answer[0]}: a text that it cannot hold, or does not know as text, halts replay"
        )
        yield Finding("warn", what, "create the database with ENCODING 'UTF8' TEMPLATE template0")


def _triggers(connection: Connection, place: str) -> Iterable[Finding]:
    """Whether replay would set off what users made here."""
    firing, always = firing_triggers(connection)
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL session_replication_role = replica")
        may_silence = True
    except psycopg.errors.InsufficientPrivilege:
        may_silence = False
    if always:
        yield Finding("fail", f"{place}: triggers would fire on replay: {', '.join(always)}", ALWAYS_CURE)
    if may_silence:
        yield Finding("ok", f"{place}: replay sets off none of {firing} triggers and foreign keys")
    elif firing:
        what = f"{place}: {firing} triggers and foreign keys would act on replay, and the role may not switch them off"
        yield Finding("fail", what, SILENCE_CURE)
    else:
        what = (
            f"{place}: a trigger or foreign key that somebody makes here will halt replay: the role may not silence it"
        )
        yield Finding("warn", what, SILENCE_CURE)


def _tables(connection: Connection, place: str, definitions: Iterable[Definition]) -> list[Finding]:
    """Tables that are there and differ: from what was written down here, else from what is to come."""
    known: dict[tuple[str, str], Definition] = {}
    if exists(connection, "replicator.definition"):
        known = schema.current_definitions(connection)
    findings = []
    for definition in {**{coming.name: coming for coming in definitions}, **known}.values():
        problem = schema.difference(connection, definition, known.get(definition.name))
        if problem:
            error = table_differs(definition, problem)
            findings.append(Finding("fail", f"{place}, {error.place}: {error.message}", error.cure))
    return findings or [Finding("ok", f"{place}: no table stands in the way")]
