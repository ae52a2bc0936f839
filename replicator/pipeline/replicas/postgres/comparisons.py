"""How the values of a table's columns are compared, where their type is not the server's own.

A session finds operators of ``pg_catalog`` only (``settings``), so that those of an extension's type, such as citext,
have to be named. They are those of the type's own index order, which only a superuser can make: an operator that
somebody created under the name ``=`` is never taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from replicator.format.definition import Definition
from replicator.postgres.quoting import listed, quoted
from replicator.postgres.session import Connection

# Of a domain, those of the type below it. Strategies 3 and 5 of a btree are equal and greater.
_OPERATORS = """
WITH RECURSIVE base AS (
  SELECT attname, atttypid AS type FROM pg_attribute
   WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT attname, typbasetype FROM base JOIN pg_type ON oid = type WHERE typbasetype <> 0)
SELECT base.attname,
       max(format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)) FILTER (WHERE w.amopstrategy = 3),
       max(format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)) FILTER (WHERE w.amopstrategy = 5)
  FROM base JOIN pg_opclass c ON c.opcintype = base.type AND c.opcdefault
  JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
  JOIN pg_amop w ON w.amopfamily = c.opcfamily AND w.amoplefttype = base.type AND w.amoprighttype = base.type
  JOIN pg_operator o ON o.oid = w.amopopr
  JOIN pg_namespace n ON n.oid = o.oprnamespace
 WHERE n.nspname <> 'pg_catalog' AND w.amopstrategy IN (3, 5)
 GROUP BY base.attname
"""


class Operators(NamedTuple):
    """The operators of a column's type, as SQL takes them."""

    equal: str = "="
    greater: str = ">"


_BUILT_IN = Operators()
ByColumn = Mapping[str, Operators]  # only columns whose type is not the server's own


def operators(connection: Connection, definition: Definition) -> ByColumn:
    """The operators of the table's columns, as far as they have to be named."""
    if not any("." in column.type for column in definition.columns):  # then no name of a type carries a schema
        return {}
    found = connection.execute(_OPERATORS, [quoted(*definition.name)])
    return {name: Operators(equal, greater) for name, equal, greater in found}


def equal(by_column: ByColumn, name: str) -> str:
    """The column's ``=``."""
    return by_column.get(name, _BUILT_IN).equal


def behind(by_column: ByColumn, names: Sequence[str], marks: Sequence[str]) -> str:
    """That these columns, in this order, are greater than the values that ``marks`` stand for."""
    greater = {by_column.get(name, _BUILT_IN).greater for name in names}
    if len(greater) == 1:  # an index on them serves
        return f"({listed(names)}) {greater.pop()} ({', '.join(marks)})"
    cases = []
    for at, (name, mark) in enumerate(zip(names, marks, strict=True)):
        same = [f"{quoted(names[i])} {equal(by_column, names[i])} {marks[i]}" for i in range(at)]
        larger = f"{quoted(name)} {by_column.get(name, _BUILT_IN).greater} {mark}"
        cases.append(" AND ".join([*same, larger]))
    return f"({' OR '.join(cases)})"
