"""What a table has of its role: a replica's places where there is no key, and what a primary's identity refuses.

A replica keys a table without a key on two columns of its own (``_sequence``, ``_ordinal``), the place of each row's
insert; a primary's table has none. Dropping them touches no row; adding them writes each row anew, with the place that
the journal knows it by (``row_places``).

A column GENERATED ALWAYS AS IDENTITY that replay made BY DEFAULT (``user_schema``) is ALWAYS again after a promotion.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from replicator.cluster.promotion.row_places import give_places
from replicator.errors import Halted
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.pipeline.replicas.postgres.rows import PLACE_COLUMNS
from replicator.pipeline.replicas.postgres.user_schema import restore_identities, set_always
from replicator.postgres.catalog import exists
from replicator.postgres.quoting import listed, quoted
from replicator.postgres.session import Connection
from replicator.storage.journal.store import Journal

_IDENTITIES = {"f": "FULL", "n": "NOTHING"}  # one by an index would be a key
# ``always_identities``: of a database that an older version adopted, as [schema, table, column].
ADOPTED = """CREATE TABLE IF NOT EXISTS replicator.adopted (
    strand text PRIMARY KEY, position text NOT NULL, always_identities json NOT NULL)"""


def as_primary(connection: Connection, strand: str, definitions: Iterable[Definition]) -> None:
    """Take off what only a replica's tables have; in one transaction."""
    with connection.transaction():
        for definition in definitions:
            if not definition.key and _has_places(connection, definition):
                drops = ", ".join(f"DROP COLUMN IF EXISTS {name}" for name in PLACE_COLUMNS)
                connection.execute(f"ALTER TABLE {quoted(*definition.name)} {drops}".encode())
        restore_identities(connection)
        if not exists(connection, "replicator.adopted"):
            return
        for (always,) in connection.execute("DELETE FROM replicator.adopted WHERE strand = %s RETURNING"
                                            " always_identities", (strand,)).fetchall():  # fmt: skip
            set_always(connection, [(namespace, table, column) for namespace, table, column in always])


def as_replica(connection: Connection, journal: Journal, position: Position, definitions: Iterable[Definition]) -> None:
    """Make them take what replay writes; within a transaction. Their rows are those of the position."""
    wanted = list(definitions)
    _add_places(connection, journal, position, [d for d in wanted if not d.key and not _has_places(connection, d)])
    connection.execute(ADOPTED)
    connection.execute(
        "INSERT INTO replicator.adopted VALUES (%s, %s, '[]') ON CONFLICT (strand) DO UPDATE"
        " SET position = excluded.position",
        (position.strand, str(position)),
    )


def adopted_at(connection: Connection, strand: str) -> str | None:
    """The position at which the database was taken as a replica; None if it was not, or is the primary's again."""
    if not exists(connection, "replicator.adopted"):
        return None
    row = connection.execute("SELECT position FROM replicator.adopted WHERE strand = %s", (strand,)).fetchone()
    return None if row is None else str(row[0])


def _has_places(connection: Connection, definition: Definition) -> bool:
    row = connection.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = ANY(%s) AND NOT attisdropped",
        (quoted(*definition.name), list(PLACE_COLUMNS)),
    ).fetchone()
    return row == (len(PLACE_COLUMNS),)


def _add_places(connection: Connection, journal: Journal, position: Position, tables: list[Definition]) -> None:
    first, second = map(quoted, PLACE_COLUMNS)
    identities = {}
    for definition in tables:
        name = quoted(*definition.name)
        kind, identity = _row(connection, "SELECT relkind, relreplident FROM pg_class WHERE oid = %s::regclass", name)
        if kind == "p":
            raise Halted(
                "no_key",
                "a partitioned table without a key cannot be a replica's: nothing could tell its rows apart",
                place=f"table {definition.label}",
                cure="give it a primary key before, or make this region anew: replicator bootstrap CONFIG --replace",
            )
        connection.execute(f"ALTER TABLE {name} ADD COLUMN {first} bigint, ADD COLUMN {second} bigint".encode())
        # A table that is published lets no row be changed that nothing tells apart in the log.
        connection.execute(f"ALTER TABLE {name} REPLICA IDENTITY FULL".encode())
        identities[name] = _IDENTITIES.get(identity, "DEFAULT")
    give_places(connection, journal, position, tables)
    for name, identity in identities.items():
        (has_key,) = _row(
            connection, "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = %s::regclass AND indisprimary)", name
        )
        key = "UNIQUE" if has_key else "PRIMARY KEY"  # a deferrable one stays: the ledger goes by none
        filled = f"ALTER COLUMN {first} SET NOT NULL, ALTER COLUMN {second} SET NOT NULL"
        for change in (f"{filled}, ADD {key} ({listed(PLACE_COLUMNS)})", f"REPLICA IDENTITY {identity}"):
            connection.execute(f"ALTER TABLE {name} {change}".encode())


def _row(connection: Connection, query: str, *values: object) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return row
