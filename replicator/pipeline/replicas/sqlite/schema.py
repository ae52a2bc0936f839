"""Tables on SQLite: created, adopted if they are empty and alike, made to follow their definition.

A table that another program made and that differs, or has rows, is refused and left as it is.
"""

from __future__ import annotations

import sqlite3

from replicator.format.definition import Definition, pack_definition, unpack_definition
from replicator.format.evolution import can_follow, changes
from replicator.format.values import sqlite_type, storage_from_text
from replicator.pipeline.replicas.shape import Shape, definition_before, differing_columns, name_taken, table_differs
from replicator.pipeline.replicas.sqlite.rows import PLACE_COLUMNS, create_table, literal, quoted, shape, user_index
from replicator.storage import sqlite

OWN_PREFIX = "_replicator_"
_OWN_TABLES = (
    """CREATE TABLE IF NOT EXISTS _replicator_position (
        strand TEXT PRIMARY KEY, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, hash BLOB NOT NULL,
        committed_at INTEGER NOT NULL, blocks INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS _replicator_definition (
        number INTEGER PRIMARY KEY, strand TEXT NOT NULL, relation INTEGER NOT NULL, namespace TEXT NOT NULL,
        name TEXT NOT NULL, definition BLOB NOT NULL, UNIQUE (strand, relation))""",
    """CREATE TABLE IF NOT EXISTS _replicator_sequence (
        namespace TEXT, name TEXT, value INTEGER NOT NULL, increment INTEGER NOT NULL,
        PRIMARY KEY (namespace, name))""",
    """CREATE TABLE IF NOT EXISTS _replicator_quarantine (
        strand TEXT, sequence INTEGER, ordinal INTEGER, txid TEXT NOT NULL, relation INTEGER NOT NULL,
        namespace TEXT NOT NULL, name TEXT NOT NULL, op TEXT NOT NULL, key TEXT, key_before TEXT,
        statement BLOB NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, set_aside_at INTEGER NOT NULL,
        outcome TEXT NOT NULL, closed_at INTEGER, closed_by TEXT NOT NULL, closed_why TEXT NOT NULL,
        PRIMARY KEY (strand, sequence, ordinal))""",
    """CREATE INDEX IF NOT EXISTS _replicator_quarantine_open
        ON _replicator_quarantine (strand, sequence, ordinal) WHERE outcome = ''""",
)


def create_own_tables(connection: sqlite3.Connection) -> None:
    """The sidecar's own tables, unless they are there."""
    # The last one tells of all, for they are made in one transaction; and an open that writes nothing takes no lock.
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_replicator_quarantine'").fetchone() is None:
        with sqlite.transaction(connection):
            for statement in _OWN_TABLES:
                connection.execute(statement)


def current_definitions(connection: sqlite3.Connection) -> dict[str, Definition]:
    """The definition in force of every table, by its label."""
    rows = connection.execute("SELECT definition FROM _replicator_definition ORDER BY number").fetchall()
    definitions = [unpack_definition(data) for (data,) in rows]
    return {definition.label: definition for definition in definitions}  # the last one of a label stays


def define(connection: sqlite3.Connection, strand: str, relation: int, definition: Definition) -> None:
    """Create the table or bring it after its definition, and write the definition down. One that cannot follow, and has
    no rows, is made anew."""
    check_names(definition)
    before = current_definitions(connection).get(definition.label)
    is_same = before is not None and before.name == definition.name
    if before is not None and is_same and not can_follow(before, definition) and _is_empty(connection, before):
        connection.execute(f"DROP TABLE {quoted(before.label)}")
        before = None
    problem = difference(connection, definition, before)
    if problem:
        raise table_differs(definition, problem)
    if before is not None and user_index(before) != user_index(definition):
        _drop_user_index(connection, before)
    if before is not None:
        _follow(connection, before, definition)
    elif _existing_name(connection, definition) is None:
        connection.execute(create_table(definition))
    _index_user(connection, definition)
    connection.execute(
        "INSERT OR REPLACE INTO _replicator_definition VALUES (NULL, ?, ?, ?, ?, ?)",
        (strand, relation, definition.namespace, definition.table, pack_definition(definition)),
    )


def undefine(connection: sqlite3.Connection, strand: str, relation: int) -> None:
    """Bring the table back to the definition before this one; a table that this one made goes."""
    rows = connection.execute("SELECT relation, definition FROM _replicator_definition WHERE strand = ?", [strand])
    definitions = {number: unpack_definition(data) for number, data in rows}
    definition, before = definitions[relation], definition_before(definitions, relation)
    connection.execute("DELETE FROM _replicator_definition WHERE strand = ? AND relation = ?", [strand, relation])
    if before is None:
        connection.execute(f"DROP TABLE IF EXISTS {quoted(definition.label)}")
        return
    if user_index(definition) != user_index(before):
        _drop_user_index(connection, definition)
    _follow(connection, definition, before)
    _index_user(connection, before)


def difference(connection: sqlite3.Connection, definition: Definition, before: Definition | None) -> str:
    """Why the table cannot be taken as it is; empty if it can. ``before`` is its definition if it is ours."""
    if before is not None and before.name != definition.name:
        return f"the name is taken by {'.'.join(before.name)}"
    name = _existing_name(connection, definition)
    if name is None:
        return "" if before is None else "somebody else dropped it"
    if name != definition.label:
        return f"SQLite does not tell it from {name}, which differs in capitals only"
    columns = connection.execute("SELECT name, type, pk FROM pragma_table_info(?)", [definition.label]).fetchall()
    problem = differing_columns(_by_name(shape(before or definition)), _by_name(columns))
    if not problem and before is None and connection.execute(f"SELECT 1 FROM {quoted(definition.label)}").fetchone():
        return "it has rows that somebody else wrote"
    return problem


def _is_empty(connection: sqlite3.Connection, definition: Definition) -> bool:
    if _existing_name(connection, definition) != definition.label:
        return False
    return connection.execute(f"SELECT 1 FROM {quoted(definition.label)} LIMIT 1").fetchone() is None


def _by_name(columns: list[tuple[str, str, int]]) -> Shape:
    return {name: (kind, key) for name, kind, key in columns}


def check_names(definition: Definition) -> None:
    """Raise Halted if SQLite cannot keep the table under its own names."""
    names = [column.name for column in definition.columns]
    folded = [name.lower() for name in names]
    problem = ""
    if definition.label.lower().startswith((OWN_PREFIX, "sqlite_")):
        problem = f"names that begin with {OWN_PREFIX} or sqlite_ are taken"
    elif len(set(folded)) != len(folded):
        problem = "SQLite does not tell columns apart whose names differ in capitals only"
    elif not definition.key and set(PLACE_COLUMNS) & set(folded):
        problem = f"{' and '.join(PLACE_COLUMNS)} are taken in a table without a key"
    if problem:
        raise name_taken(definition, problem)


def _existing_name(connection: sqlite3.Connection, definition: Definition) -> str | None:
    """What SQLite takes the table's name for, in the capitals that it was created with."""
    row = connection.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE", [definition.label]
    ).fetchone()
    return None if row is None else str(row[0])


def _follow(connection: sqlite3.Connection, old: Definition, new: Definition) -> None:
    """Rename, drop and add columns. A changed type keeps its storage, or ``changes`` has raised."""
    changed = changes(old, new)
    table = quoted(new.label)
    # In this order: a new column may bear the name of one that was dropped or renamed.
    for name in changed.dropped:
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(name)}")
    for before, after in changed.renamed:
        connection.execute(f"ALTER TABLE {table} RENAME COLUMN {quoted(before)} TO {quoted(after)}")
    for column in changed.added:
        missing = "" if column.missing is None else f" DEFAULT {literal(storage_from_text(column, column.missing))}"
        kind = sqlite_type(column.type)
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column.name)} {kind}{missing}")


def _drop_user_index(connection: sqlite3.Connection, definition: Definition) -> None:
    """A column within an index cannot be dropped. ``…_by_…`` is what it was called once."""
    names = [user_index(definition), f"{definition.label}_by_{definition.user}"]
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND name IN (?, ?)",
        [definition.label, *names],
    ).fetchall()
    for (name,) in found:
        connection.execute(f"DROP INDEX {quoted(name)}")


def _index_user(connection: sqlite3.Connection, definition: Definition) -> None:
    name = user_index(definition)
    if name is not None and definition.user is not None:
        table, column = quoted(definition.label), quoted(definition.user)
        connection.execute(f"CREATE INDEX IF NOT EXISTS {quoted(name)} ON {table} ({column})")
