"""Whether a replica region's database could be the primary's: every reason why not, with its cure.

Guarantee: it changes nothing, and runs beside replay. How far the region is behind is not its matter. Blocking.
"""

from __future__ import annotations

import dataclasses

from replicator.cluster.promotion.database import has_own_tables, in_force, open_quarantine
from replicator.cluster.promotion.table_differences import differences
from replicator.errors import Halted, ReplicatorError
from replicator.format.definition import Definition
from replicator.pipeline.replicas.postgres.replica import read_applied
from replicator.pipeline.sources.postgres.initial import SLOT_NOTE
from replicator.pipeline.sources.postgres.options import IGNORED_NAMESPACE, PostgresOptions
from replicator.pipeline.sources.postgres.preflight import preflight
from replicator.pipeline.sources.postgres.publication import publishes_generated
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import read_slot
from replicator.postgres.catalog import TableFacts, TableName, read_tables, table_oid
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Connection
from replicator.postgres.settings import READ_ONLY
from replicator.storage.journal.store import Journal

_STRANGERS = """
SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', %s) AND NOT c.oid = ANY(%s::oid[])
 ORDER BY n.nspname, c.relname
"""


def reasons(dsn: str, options: PostgresOptions, journal: Journal, strand: str) -> list[str]:
    """Why the region cannot be promoted; empty if it can."""
    here = dataclasses.replace(options, dsn=dsn)
    problems: list[str] = []
    try:
        with session(here, READ_ONLY) as connection:
            definitions = definitions_of(journal, strand)
            problems += _state(connection, strand)
            problems += _differences(connection, options, definitions)
        with session(options, READ_ONLY) as source:
            problems += _others(source, options, definitions)
            if journal.notes().get(SLOT_NOTE) != options.slot and read_slot(source, options.slot) is not None:
                problems.append(
                    f"slot {options.slot} is there already, and it is not ours; drop it, or name another one"
                )
    except ReplicatorError as error:
        problems.append(str(error))
    problems += [f"{finding.what}; {finding.cure}" for finding in preflight(options) if finding.level == "fail"]
    return list(dict.fromkeys(problems))  # both looks at a server that is down say the same


def definitions_of(journal: Journal, strand: str) -> dict[TableName, Definition]:
    """The definition in force of each table."""
    return {name: definition for name, (_, definition) in in_force(journal, strand).items()}


def tables_of(connection: Connection, definitions: dict[TableName, Definition]) -> dict[TableName, TableFacts]:
    """What the catalogs say of the ledger's tables."""
    oids = [oid for name in definitions if (oid := table_oid(connection, name)) is not None]
    return {facts.name: facts for facts in read_tables(connection, oids)}


def check_tables(connection: Connection, options: PostgresOptions, definitions: dict[TableName, Definition]) -> None:
    """Raise Halted if the database's tables are not the ledger's."""
    problems = _differences(connection, options, definitions)
    if problems:
        raise Halted(
            "table_differs",
            "; ".join(problems),
            place="the database to promote",
            cure="bring the tables to the ledger's form (create a missing type, and alter the column to it)",
        )


def _differences(
    connection: Connection, options: PostgresOptions, definitions: dict[TableName, Definition]
) -> list[str]:
    generated = publishes_generated(connection, options)
    return differences(definitions, tables_of(connection, definitions), generated=generated)


def _state(connection: Connection, strand: str) -> list[str]:
    if not has_own_tables(connection) or read_applied(connection, strand) is None:
        return ["the database has no position: it has not followed yet"]
    aside = open_quarantine(connection, strand)
    return (
        [f"statements are set aside: {', '.join(aside)}; replicator quarantine replay CONFIG, or drop"] if aside else []
    )


def _others(connection: Connection, options: PostgresOptions, definitions: dict[TableName, Definition]) -> list[str]:
    """Tables that would be published and that no region has."""
    names = options.table_names
    if names is not None:
        return [
            f"table {'.'.join(name)} is configured and not in the ledger; take it out of [source] tables"
            for name in names
            if name not in definitions
        ]
    known = [facts.oid for facts in tables_of(connection, definitions).values()]
    return [
        f"table {'.'.join(facts.name)} has rows and is not in the ledger; move it to another database, or list [source]"
        " tables"
        for facts in strangers(connection, known)
        if has_rows(connection, facts.name)
    ]


def strangers(connection: Connection, known: list[int]) -> list[TableFacts]:
    """The tables that a publication of all tables would have beside these."""
    return read_tables(connection, [oid for (oid,) in connection.execute(_STRANGERS, (IGNORED_NAMESPACE, known))])


def has_rows(connection: Connection, name: TableName) -> bool:
    """Whether there is any row in the table."""
    text = f"SELECT FROM {quoted(*name)} LIMIT 1"
    return connection.execute(text.encode()).fetchone() is not None
