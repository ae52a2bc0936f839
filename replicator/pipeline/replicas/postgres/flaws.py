"""What keeps a database's tables from being compared by the ledger's definitions: what is missing, or of another type.

Guarantee: it is judged by the catalogs that the reader's snapshot sees, so a change that came later says nothing.
A column that no definition has yet is no flaw by itself: with no value in it, the copies lack nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import psycopg

from replicator.format.definition import Definition
from replicator.format.evolution import widens
from replicator.pipeline.replicas.postgres.rows import PLACE_COLUMNS
from replicator.postgres.catalog import TableFacts, TableName, read_tables, table_oid
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Connection

_VIRTUAL = "v"
TELL_CURE = "update any row of it, to the same values: the log then tells of it"
_PUBLISHED = """
SELECT t.schemaname, t.tablename FROM pg_publication_tables t
 WHERE t.pubname = %s AND t.schemaname <> 'replicator' ORDER BY t.schemaname, t.tablename
"""


def facts_of(connection: Connection, definitions: Iterable[Definition]) -> dict[TableName, TableFacts]:
    """What the catalogs say of these tables; those that are not there are left out."""
    # Rolled back to where it began: what looks at partitions locks them, and a moment must keep no table locked.
    with connection.transaction(force_rollback=True):
        oids = [oid for each in definitions if (oid := table_oid(connection, each.name)) is not None]
        return {facts.name: facts for facts in read_tables(connection, oids)}


def flaw(definition: Definition, facts: TableFacts | None, *, captured: bool) -> str:
    """Why the table cannot be compared; empty if it can. ``captured``: the database is the ledger itself, and not a
    replica, which may keep a value in another type."""
    if facts is None:
        return "it is not in the database"
    here = {attribute.name: attribute for attribute in facts.attributes if not attribute.dropped}
    problems = []
    for column in definition.columns:
        attribute = here.get(column.name)
        if attribute is None:
            cure = f" ({TELL_CURE})" if captured else ""
            problems.append(f"column {column.name} is not in the table any more{cure}")
        elif captured and not widens(column.type, attribute.type):
            problems.append(f"column {column.name} is {attribute.type} in the table and {column.type} in the ledger")
    return "; ".join(problems)


def uncarried(definition: Definition, facts: TableFacts, *, generated: bool) -> list[str]:
    """The columns that no block has told of; a generated one only where such are published."""
    known = {column.name for column in definition.columns} | {*PLACE_COLUMNS}
    return [
        attribute.name
        for attribute in facts.attributes
        if not attribute.dropped
        and attribute.name not in known
        and (not attribute.generated or (generated and attribute.generated != _VIRTUAL))
    ]


def publishes_generated(connection: Connection, publication: str) -> bool:
    """Whether stored generated columns are sent (PostgreSQL 18)."""
    query = "SELECT to_jsonb(p) ->> 'pubgencols' = 's' FROM pg_publication p WHERE pubname = %s"
    return connection.execute(query, (publication,)).fetchone() == (True,)


def unknown_tables(connection: Connection, publication: str, known: Set[TableName]) -> dict[str, str]:
    """The published tables that have rows and that no block has told of, by label, each with what that means."""
    found = {}
    for name in connection.execute(_PUBLISHED, (publication,)).fetchall():
        if name not in known and (problem := _rows_of(connection, name)):
            schema, table = name
            found[table if schema == "public" else f"{schema}.{table}"] = problem
    return found


def _rows_of(connection: Connection, name: TableName) -> str:
    try:
        # Rolled back, so that the moment does not keep the table locked.
        with connection.transaction(force_rollback=True):
            statement = f"SELECT FROM ONLY {quoted(*name)} LIMIT 1"
            row = connection.execute(statement.encode()).fetchone()
    except psycopg.errors.UndefinedTable:
        return ""  # it came or went just now
    except psycopg.Error as error:
        if connection.closed:
            raise
        return f"it cannot be read: {error.diag.message_primary or type(error).__name__}"
    return "" if row is None else "it has rows that no block carries"
