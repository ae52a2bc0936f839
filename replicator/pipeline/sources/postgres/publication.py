"""The publication: created when there is none, checked when there is one.

Guarantee: what the initial copy reads and what the stream brings are the same tables, columns and rows, or the source
does not start. A publication that was there before is used as it is and never altered.
"""

from __future__ import annotations

from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.evolution import RESYNC
from replicator.pipeline.sources.postgres.options import IGNORED_NAMESPACE, PostgresOptions
from replicator.postgres.catalog import read_tables, table_oid
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Connection

GENERATED_SINCE = 180000  # publish_generated_columns
FILTERS_SINCE = 150000  # row filters and column lists

_PUBLISHED = """
SELECT c.oid::int8
  FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
 WHERE t.pubname = %s AND t.schemaname <> %s
 ORDER BY t.schemaname, t.tablename
"""


class Publication(NamedTuple):
    """A publication: whether tables that come later belong to it, and whether stored generated columns are sent."""

    all_tables: bool
    generated: bool


def has_publication(connection: Connection, options: PostgresOptions) -> bool:
    """Whether there is a publication of that name."""
    return _read(connection, options) is not None


def publishes_generated(connection: Connection, options: PostgresOptions) -> bool:
    """Whether stored generated columns are sent, by the publication that is there or the one that would be made."""
    found = _read(connection, options)
    return connection.info.server_version >= GENERATED_SINCE if found is None else found[3]


def ensure_publication(connection: Connection, options: PostgresOptions) -> Publication:
    """Create the publication if there is none, then check it. Raises Halted."""
    if _read(connection, options) is None:
        connection.execute(_create_statement(connection, options).encode())
    return check_publication(connection, options, starting=True)


def check_publication(connection: Connection, options: PostgresOptions, *, starting: bool = False) -> Publication:
    """The publication, if it publishes what the options ask for, all of it. Raises Halted.

    After the start, a configured table that was dropped meanwhile may be missing.
    """
    found = _read(connection, options)
    if found is None:
        raise _differs(options, "it does not exist")
    all_tables, via_root, complete, generated, filtered = found
    if not complete:
        raise _differs(options, "it does not publish insert, update, delete and truncate")
    if not via_root:
        raise _differs(options, "it does not publish partitions through their root")
    if filtered:
        raise _differs(options, "it has row filters or column lists")
    names = options.table_names
    if (names is None) != all_tables:
        raise _differs(options, "FOR ALL TABLES is used exactly if no tables are configured")
    if names is not None:
        published = {table.name for table in read_tables(connection, published_oids(connection, options.publication))}
        for name in {*names} ^ published:
            if name not in published and not starting and table_oid(connection, name) is None:
                continue
            which = "lacks" if name in names else "has besides"
            raise _differs(options, f"it {which} table {'.'.join(name)}")
    return Publication(all_tables, generated)


def published_oids(connection: Connection, publication: str) -> list[int]:
    """The tables that a publication publishes, roots in place of their partitions, by name."""
    return [oid for (oid,) in connection.execute(_PUBLISHED, (publication, IGNORED_NAMESPACE))]


def _read(connection: Connection, options: PostgresOptions) -> tuple[bool, bool, bool, bool, bool] | None:
    version = connection.info.server_version
    generated = "pubgencols = 's'" if version >= GENERATED_SINCE else "false"
    filtered = (
        "EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid"
        " AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL))"
        if version >= FILTERS_SINCE
        else "false"
    )
    row = connection.execute(
        f"SELECT puballtables, pubviaroot, pubinsert AND pubupdate AND pubdelete AND pubtruncate, {generated},"
        f" {filtered} FROM pg_publication p WHERE pubname = %s".encode(),
        (options.publication,),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3], row[4])


def _create_statement(connection: Connection, options: PostgresOptions) -> str:
    settings = "publish_via_partition_root = true"
    if connection.info.server_version >= GENERATED_SINCE:
        settings += ", publish_generated_columns = stored"
    names = options.table_names
    if names is None:
        what = "ALL TABLES"
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        if row is None or not row[0]:
            raise Halted(
                "missing_privilege",
                "only a superuser can publish all tables",
                place=f"publication {options.publication}",
                cure="list the tables in the configuration, or let a superuser run: CREATE PUBLICATION"
                f" {options.publication} FOR ALL TABLES WITH ({settings})",
            )
    else:
        check_tables(connection, options)
        what = "TABLE " + ", ".join(f"ONLY {quoted(*name)}" for name in names)
    return f"CREATE PUBLICATION {quoted(options.publication)} FOR {what} WITH ({settings})"


def check_tables(connection: Connection, options: PostgresOptions) -> None:
    """Raise Halted if a configured table does not exist, or is none that can be published."""
    for name in options.table_names or ():
        row = connection.execute(
            "SELECT c.relpersistence = 'p', c.relispartition FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')",
            name,
        ).fetchone()
        place = f"table {'.'.join(name)}"
        if row is None:
            raise Halted("no_such_table", "the table does not exist", place=place, cure="correct the configuration")
        if not row[0]:
            raise Halted(
                "not_logged", "an unlogged table cannot be followed", place=place, cure="ALTER TABLE SET LOGGED"
            )
        if row[1]:
            raise Halted("is_partition", "a partition is followed through its root", place=place, cure="name the root")


def _differs(options: PostgresOptions, message: str) -> Halted:
    return Halted(
        "publication_differs",
        message,
        place=f"publication {options.publication}",
        cure="put it back as it was, or drop it and let it be created; rows that it did not publish meanwhile are in no"
        f" block: {RESYNC}",
    )
