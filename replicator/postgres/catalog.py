"""What PostgreSQL's catalogs say of tables: read in two queries, kept as plain facts.

The facts are as of the reading. A log that is read later than it was written may speak of an older shape; making a
definition from both is the source's matter (``definitions``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from replicator.postgres.session import Connection

TableName = tuple[str, str]  # schema and name


class Attribute(NamedTuple):
    """A column, also a dropped one (its ``type_oid`` is 0). ``generated`` is '', 's' (stored) or 'v' (virtual)."""

    number: int
    name: str
    type_oid: int
    modifier: int
    type: str
    nullable: bool
    dropped: bool
    generated: str
    filled: bool  # has a default, identity or generation: a value that no row message brings
    missing: str | None
    sequence: TableName | None


class TableFacts(NamedTuple):
    """A table. ``key`` are the names of its primary key, ``identity_key`` of the index that REPLICA IDENTITY names.

    ``storage`` changes whenever the table or a partition of it is rewritten. ``kind`` is pg_class.relkind, ``identity``
    pg_class.relreplident.
    """

    oid: int
    namespace: str
    table: str
    kind: str
    identity: str
    key: tuple[str, ...]
    key_deferrable: bool
    identity_key: tuple[str, ...]
    storage: str
    attributes: tuple[Attribute, ...]

    @property
    def name(self) -> TableName:
        return (self.namespace, self.table)


_TABLES = """
SELECT c.oid::int8, n.nspname, c.relname, c.relkind, c.relreplident,
       (SELECT array_agg(a.attname::text ORDER BY k.place)
          FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k (number, place), pg_attribute a
         WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts
           AND a.attrelid = c.oid AND a.attnum = k.number),
       coalesce((SELECT NOT i.indimmediate FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), false),
       (SELECT array_agg(a.attname::text ORDER BY k.place)
          FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k (number, place), pg_attribute a
         WHERE i.indrelid = c.oid AND i.indisreplident AND k.place <= i.indnkeyatts
           AND a.attrelid = c.oid AND a.attnum = k.number),
       CASE c.relkind WHEN 'p'
         THEN (SELECT md5(string_agg(l.relid::oid || ':' || f.relfilenode, ',' ORDER BY l.relid::oid))
                 FROM pg_partition_tree(c.oid) l JOIN pg_class f ON f.oid = l.relid WHERE l.isleaf)
         ELSE c.relfilenode::text END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY(%s::oid[])
"""

_ATTRIBUTES = """
SELECT a.attrelid::int8, a.attnum, a.attname, a.atttypid::int8, a.atttypmod,
       CASE WHEN a.attisdropped THEN '' ELSE format_type(a.atttypid, a.atttypmod) END,
       NOT a.attnotnull, a.attisdropped, a.attgenerated::text, a.atthasdef OR a.attidentity <> '',
       CASE c.relkind WHEN 'p'
         THEN (SELECT max(array_to_string(b.attmissingval, '')) FROM pg_partition_tree(c.oid) l
                 JOIN pg_attribute b ON b.attrelid = l.relid AND b.attname = a.attname AND b.atthasmissing
                WHERE l.isleaf)
         -- The only element's text, whatever parts the elements of an array of its type.
         ELSE array_to_string(a.attmissingval, '') END,
       s.nspname, s.relname
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN LATERAL (
       SELECT n.nspname, q.relname FROM (
              SELECT 1 AS rank, d.objid AS oid FROM pg_depend d
               WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                 AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
               UNION ALL
              SELECT 2, d.refobjid FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass
                 AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> a.attrelid
               WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum
                 AND pg_get_expr(f.adbin, f.adrelid) LIKE 'nextval(%%::regclass)') o
         JOIN pg_class q ON q.oid = o.oid AND q.relkind = 'S'
         JOIN pg_namespace n ON n.oid = q.relnamespace
        ORDER BY o.rank, q.oid LIMIT 1) s ON NOT a.attisdropped
 WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0
 ORDER BY a.attrelid, a.attnum
"""


def read_tables(connection: Connection, oids: Iterable[int]) -> list[TableFacts]:
    """The facts of these tables, in this order; tables that are gone are left out."""
    wanted = list(oids)
    attributes: dict[int, list[Attribute]] = {}
    for row in connection.execute(_ATTRIBUTES, (wanted,)):
        owned = None if row[12] is None else (row[11], row[12])
        attributes.setdefault(row[0], []).append(Attribute._make([*row[1:11], owned]))
    found = {}
    for oid, namespace, table, kind, identity, key, deferrable, identity_key, storage in connection.execute(
        _TABLES, (wanted,)
    ):
        found[oid] = TableFacts(
            oid,
            namespace,
            table,
            kind,
            identity,
            tuple(key or ()),
            deferrable,
            tuple(identity_key or ()),
            storage or "",
            tuple(attributes.get(oid, ())),
        )
    return [found[oid] for oid in wanted if oid in found]


def read_table(connection: Connection, oid: int) -> TableFacts | None:
    """The facts of one table; None if it is gone."""
    tables = read_tables(connection, [oid])
    return tables[0] if tables else None


def table_oid(connection: Connection, name: TableName) -> int | None:
    """The oid of a table or partitioned table; None if there is none of that name."""
    row = connection.execute(
        "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')",
        name,
    ).fetchone()
    return None if row is None else int(row[0])


def exists(connection: Connection, relation: str) -> bool:
    """Whether there is a table, sequence, view or index of this name, as SQL takes it."""
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL", [relation]).fetchone() == (True,)


def all_oids(connection: Connection) -> list[int]:
    """Every table there is, published or not: what is not among them later was created later."""
    return [oid for (oid,) in connection.execute("SELECT oid::int8 FROM pg_class WHERE relkind IN ('r', 'p')")]
