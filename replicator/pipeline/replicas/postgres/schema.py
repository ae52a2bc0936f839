"""Tables on PostgreSQL: created, adopted if they are empty and alike, made to follow their definition.

A table that another program made and that differs, or has rows, is refused and left as it is.
"""

from __future__ import annotations

import hashlib
import re

import psycopg

from replicator.format.definition import Column, Definition, pack_definition, unpack_definition
from replicator.format.evolution import can_follow, changes
from replicator.pipeline.replicas.postgres import sequences
from replicator.pipeline.replicas.postgres.rows import PLACE_COLUMNS
from replicator.pipeline.replicas.postgres.user_schema import add_places, generated_columns, lacks_places, take_as_is
from replicator.pipeline.replicas.shape import Shape, definition_before, differing_columns, name_taken, table_differs
from replicator.postgres.catalog import TableName, exists
from replicator.postgres.locks import INSTALLING, LOCKS
from replicator.postgres.quoting import listed, literal, quoted
from replicator.postgres.session import Connection

NAME_LIMIT_BYTES = 63
_OWN_TABLES = (
    "CREATE SCHEMA IF NOT EXISTS replicator",
    """CREATE TABLE IF NOT EXISTS replicator.position (
        strand text PRIMARY KEY, epoch bigint NOT NULL, sequence bigint NOT NULL, hash bytea NOT NULL,
        committed_at bigint NOT NULL, blocks bigint NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS replicator.definition (
        number bigserial, strand text, relation bigint, namespace text NOT NULL, name text NOT NULL,
        definition bytea NOT NULL, PRIMARY KEY (strand, relation))""",
    """CREATE TABLE IF NOT EXISTS replicator.sequence (
        namespace text, name text, value bigint NOT NULL, increment bigint NOT NULL, PRIMARY KEY (namespace, name))""",
    """CREATE TABLE IF NOT EXISTS replicator.quarantine (
        strand text, sequence bigint, ordinal bigint, txid text NOT NULL, relation bigint NOT NULL,
        namespace text NOT NULL, name text NOT NULL, op text NOT NULL, key text, key_before text,
        statement bytea NOT NULL, reason text NOT NULL, message text NOT NULL, set_aside_at bigint NOT NULL,
        outcome text NOT NULL, closed_at bigint, closed_by text NOT NULL, closed_why text NOT NULL,
        PRIMARY KEY (strand, sequence, ordinal))""",
    """CREATE INDEX IF NOT EXISTS quarantine_open ON replicator.quarantine (strand, sequence, ordinal)
        WHERE outcome = ''""",
)


def create_own_tables(connection: Connection) -> None:
    """The sidecar's own tables, unless they are there."""
    if not exists(connection, "replicator.quarantine"):
        with connection.transaction():
            connection.execute(
                f"SELECT pg_advisory_xact_lock({LOCKS}, {INSTALLING})"
            )  # the fence makes the schema, too
            for statement in _OWN_TABLES:
                connection.execute(statement)


def current_definitions(connection: Connection) -> dict[tuple[str, str], Definition]:
    """The definition in force of every table, by its name."""
    found = connection.execute("SELECT definition FROM replicator.definition ORDER BY number").fetchall()
    definitions = [unpack_definition(data) for (data,) in found]
    return {definition.name: definition for definition in definitions}


def define(connection: Connection, strand: str, relation: int, definition: Definition) -> None:
    """Create the table or bring it after its definition, and write the definition down. One that cannot follow, and has
    no rows, is set aside, with what users made of it, and made anew."""
    check_names(definition)
    before = _current(connection, definition.name)
    if before is not None and not can_follow(before, definition) and _is_empty(connection, before):
        _set_aside(connection, before.name)
        before = None
    if (
        before == definition
        and _is_written(connection, strand, relation, definition)
        and not lacks_places(connection, definition)
    ):
        return  # by a first copy that was divided, and killed
    problem = difference(connection, definition, before)
    if problem:
        raise table_differs(definition, problem)
    if before is not None:
        _follow(connection, before, definition)
    elif not _exists(connection, definition):
        _execute(connection, f"CREATE SCHEMA IF NOT EXISTS {quoted(definition.namespace)}")
        _execute(connection, f"CREATE TABLE {quoted(*definition.name)} {table_body(connection, definition)}")
    if lacks_places(connection, definition):
        add_places(connection, definition)
    if before is None:
        _fence(connection, definition)
    sequences.attach(connection, definition)
    _index_user(connection, before, definition)
    connection.execute(
        "INSERT INTO replicator.definition (strand, relation, namespace, name, definition) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (strand, relation) DO UPDATE SET number = excluded.number, namespace = excluded.namespace,"
        " name = excluded.name, definition = excluded.definition",
        (strand, relation, definition.namespace, definition.table, pack_definition(definition)),
    )


def _current(connection: Connection, name: tuple[str, str]) -> Definition | None:
    """The definition in force of one table."""
    found = connection.execute(
        "SELECT definition FROM replicator.definition WHERE namespace = %s AND name = %s ORDER BY number DESC LIMIT 1",
        name,
    ).fetchone()
    return None if found is None else unpack_definition(found[0])


def _is_written(connection: Connection, strand: str, relation: int, definition: Definition) -> bool:
    found = connection.execute(
        "SELECT definition FROM replicator.definition WHERE strand = %s AND relation = %s", [strand, relation]
    ).fetchone()
    return found is not None and found[0] == pack_definition(definition) and _exists(connection, definition)


def undefine(connection: Connection, strand: str, relation: int) -> None:
    """Bring the table back to the definition before this one; a table that this one made is set aside, whole: it may
    have been there, empty, before the ledger knew of it."""
    sql = "SELECT relation, definition FROM replicator.definition WHERE strand = %s"
    definitions = {number: unpack_definition(data) for number, data in connection.execute(sql, [strand])}
    definition, before = definitions[relation], definition_before(definitions, relation)
    connection.execute("DELETE FROM replicator.definition WHERE strand = %s AND relation = %s", [strand, relation])
    if before is None:
        _set_aside(connection, definition.name)
        return
    _follow(connection, definition, before)
    _index_user(connection, definition, before)


def _is_empty(connection: Connection, definition: Definition) -> bool:
    if not _exists(connection, definition):
        return False
    found = connection.execute(f"SELECT FROM {quoted(*definition.name)} LIMIT 1".encode())
    return found.fetchone() is None


def _set_aside(connection: Connection, name: TableName) -> None:
    """Move a table out of the applications' way into the sidecar's own schema, which no source publishes."""
    row = connection.execute("SELECT to_regclass(%s)::oid::int8", [quoted(*name)]).fetchone()
    if row is None or row[0] is None:
        return
    aside = f"undone_{row[0]}"  # no two tables have an oid, and the schema's own tables have other names
    _execute(connection, f"ALTER TABLE {quoted(*name)} RENAME TO {quoted(aside)}")
    _execute(connection, f"ALTER TABLE {quoted(name[0], aside)} SET SCHEMA replicator")


def _fence(connection: Connection, definition: Definition) -> None:
    """Where applications may not write (``fencing``), they may not write to a new table either."""
    may = "SELECT has_function_privilege(to_regprocedure('replicator.fence_table(regclass)')::oid, 'EXECUTE')"
    if connection.execute(may).fetchone() == (True,):
        connection.execute("SELECT replicator.fence_table(to_regclass(%s))", [quoted(*definition.name)])


def table_body(connection: Connection, definition: Definition) -> str:
    """The columns and the key, as CREATE TABLE takes them."""
    columns = [f"{quoted(column.name)} {replica_type(connection, column)}" for column in definition.columns]
    if not definition.key:
        columns += [f"{name} bigint" for name in PLACE_COLUMNS]
    key = listed(definition.key or PLACE_COLUMNS)
    # Room on each page lets an update stay there and leave the indexes alone: measured, a quarter faster.
    room = " WITH (fillfactor = 90)" if definition.key else ""
    return f"({', '.join(columns)}, PRIMARY KEY ({key})){room}"


# Names and modifiers as format_type prints them, and nothing that could end the statement.
_TYPE = re.compile(
    r"""((?:(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)\.)?(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*(?:\ [a-z]+)*))"""
    r"""(\(-?[0-9]+(?:,-?[0-9]+)?\))?((?:\ [a-z]+)*(?:\[\])*)""",
    re.VERBOSE,
)
# A base type, enum, range or multirange; of an array, its elements'. Composites and domains of one name can differ.
_TYPE_QUERY = """
    SELECT coalesce(element.typtype, type.typtype) IN ('b', 'e', 'r', 'm')
    FROM pg_type AS type LEFT JOIN pg_type AS element ON element.oid = type.typelem AND type.typcategory = 'A'
    WHERE type.oid = to_regtype(%s)
"""


def replica_type(connection: Connection, column: Column) -> str:
    """The SQL type that the column has here: its own if this server has it, else text."""
    match = _TYPE.fullmatch(column.type)
    if match is None:
        return "text"
    name, modifier, rest = match[1], match[2] or "", match[3]
    try:
        with connection.transaction():
            known = connection.execute(_TYPE_QUERY, [name + rest]).fetchone()
    except psycopg.errors.SyntaxError:  # before PostgreSQL 16, to_regtype raises on what is no type at all
        known = None
    return f"{name}{modifier}{rest}" if known == (True,) else "text"


def column_types(connection: Connection, definition: Definition) -> list[str]:
    """The SQL types that the table's columns have on this server, in the definition's order. Raises Halted."""
    found = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [quoted(*definition.name)],
    ).fetchall()
    types = {str(name): str(kind) for name, kind in found}
    missing = [column.name for column in definition.columns if column.name not in types]
    if missing:
        raise table_differs(definition, f"columns are missing: {', '.join(missing)}")
    return [types[column.name] for column in definition.columns]


def difference(connection: Connection, definition: Definition, before: Definition | None) -> str:
    """Why the table cannot be taken as it is; empty if it can. ``before`` is its definition if it is ours."""
    if not _exists(connection, definition):
        return "" if before is None else "somebody else dropped it"
    name = quoted(*definition.name)
    with connection.transaction(force_rollback=True):
        probe = f"CREATE TEMP TABLE replicator_probe {table_body(connection, before or definition)}"
        _execute(connection, probe)
        wanted, found = _shape(connection, "pg_temp.replicator_probe"), _shape(connection, name)
    take_as_is(connection, before or definition, wanted, found)
    is_empty = _execute(connection, f"SELECT 1 FROM {name} LIMIT 1").fetchone() is None
    if (before is None or is_empty) and lacks_places(connection, definition):
        for place in PLACE_COLUMNS:
            wanted.pop(place)  # ``define`` adds them
    problem = differing_columns(wanted, found)
    if not problem and before is None and not is_empty:
        return "it has rows that somebody else wrote"
    return problem


def _shape(connection: Connection, table: str) -> Shape:
    """Each column's type and its place in the key, from 1; 0 outside."""
    found = connection.execute(
        """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod),
               coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0)
        FROM pg_attribute AS a LEFT JOIN pg_index AS i ON i.indrelid = a.attrelid AND i.indisprimary
        WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
        """,
        [table],
    ).fetchall()
    return {str(name): (str(kind), int(key)) for name, kind, key in found}


def check_names(definition: Definition) -> None:
    """Raise Halted if PostgreSQL cannot keep the table under its own names."""
    names = [column.name for column in definition.columns]
    problem = ""
    if any(len(name.encode()) > NAME_LIMIT_BYTES for name in (*definition.name, *names)):
        problem = f"PostgreSQL's names have at most {NAME_LIMIT_BYTES} bytes"
    elif definition.namespace in ("replicator", "information_schema") or definition.namespace.startswith("pg_"):
        problem = f"the schema {definition.namespace} is taken"
    elif not definition.key and set(PLACE_COLUMNS) & set(names):
        problem = f"{' and '.join(PLACE_COLUMNS)} are taken in a table without a key"
    if problem:
        raise name_taken(definition, problem)


def _exists(connection: Connection, definition: Definition) -> bool:
    return exists(connection, quoted(*definition.name))


def _follow(connection: Connection, old: Definition, new: Definition) -> None:
    """Drop, rename, widen and add columns, in this order."""
    changed = changes(old, new)
    table = f"ALTER TABLE {quoted(*new.name)}"
    for name in changed.dropped:
        _execute(connection, f"{table} DROP COLUMN {quoted(name)}")
    for before, after in changed.renamed:
        _execute(connection, f"{table} RENAME COLUMN {quoted(before)} TO {quoted(after)}")
    for column in changed.retyped:
        kind = replica_type(connection, column)
        _execute(connection, f"{table} ALTER COLUMN {quoted(column.name)} TYPE {kind}")
    made_here = generated_columns(connection, new)
    for column in changed.added:
        if column.name in made_here:  # whoever migrates the schema was here first
            continue
        missing = "" if column.missing is None else f" DEFAULT {literal(column.missing)}"
        kind = replica_type(connection, column)
        _execute(connection, f"{table} ADD COLUMN {quoted(column.name)} {kind}{missing}")


def _index_user(connection: Connection, before: Definition | None, definition: Definition) -> None:
    """An index on the user's id and then the key, so that a user's rows come from it in key order."""
    old, new = user_index(before) if before else None, user_index(definition)
    if before is not None and old == new:
        return  # it is there, or the table was a primary's, which indexes as its users want it
    if before is not None and old is not None and old != new:
        for name in (old, f"{before.table}_by_{before.user}"):  # as it was called once
            if _is_index_of(connection, quoted(definition.namespace, name), definition):
                _execute(connection, f"DROP INDEX {quoted(definition.namespace, name)}")
    if new is not None and definition.user is not None:
        columns = dict.fromkeys((definition.user, *(definition.key or PLACE_COLUMNS)))
        _execute(
            connection,
            f"CREATE INDEX IF NOT EXISTS {quoted(new)} ON {quoted(*definition.name)} ({listed(columns)})",
        )


def _is_index_of(connection: Connection, name: str, definition: Definition) -> bool:
    query = "SELECT FROM pg_index WHERE indexrelid = to_regclass(%s) AND indrelid = to_regclass(%s)"
    return connection.execute(query, [name, quoted(*definition.name)]).fetchone() is not None


def user_index(definition: Definition) -> str | None:
    """The name of the index on the user's id; None if the key serves. A table of somebody's may well be called
    ``wallets_by_user_id``; hence what it begins with."""
    if definition.user is None or definition.key[:1] == (definition.user,):
        return None
    name = f"replicator_{definition.table}_by_{definition.user}"
    if len(name.encode()) <= NAME_LIMIT_BYTES:
        return name
    return "replicator_by_user_" + hashlib.sha256(name.encode()).hexdigest()[:32]


def _execute(connection: Connection, statement: str) -> psycopg.Cursor:
    return connection.execute(statement.encode())
