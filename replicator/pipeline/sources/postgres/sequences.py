"""Sequences: their values are not in the change stream, so they are read from time to time.

Guarantee: a value that is carried was handed out before its block; the blocks of one sequence follow its readings.
A sequence that was never used is left out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.statement import pack_sequence
from replicator.pipeline.sources.postgres.options import IGNORED_NAMESPACE
from replicator.postgres.session import Connection

SEQUENCES_TXID = "sequences"


class SequenceValue(NamedTuple):
    """The last value that a sequence handed out, and its step."""

    namespace: str
    name: str
    value: int
    increment: int


_CARRIED = """
SELECT s.schemaname, s.sequencename, s.last_value, s.increment_by,
       has_sequence_privilege(format('%%I.%%I', s.schemaname, s.sequencename), 'SELECT, USAGE')
  FROM pg_sequences s
 WHERE s.schemaname IN (SELECT schemaname FROM pg_publication_tables WHERE pubname = %s AND schemaname <> %s)
    OR EXISTS (SELECT FROM pg_publication_tables t JOIN pg_namespace m ON m.nspname = t.schemaname
                 JOIN pg_class c ON c.relnamespace = m.oid AND c.relname = t.tablename
                 JOIN pg_depend d ON d.refobjid = c.oid AND d.refclassid = 'pg_class'::regclass
                  AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
                 JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S'
                 JOIN pg_namespace n ON n.oid = q.relnamespace
                WHERE t.pubname = %s AND n.nspname = s.schemaname AND q.relname = s.sequencename)
    OR EXISTS (SELECT FROM pg_publication_tables t JOIN pg_namespace m ON m.nspname = t.schemaname
                 JOIN pg_class c ON c.relnamespace = m.oid AND c.relname = t.tablename
                 JOIN pg_attrdef f ON f.adrelid = c.oid
                 JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                  AND d.refclassid = 'pg_class'::regclass
                 JOIN pg_class q ON q.oid = d.refobjid AND q.relkind = 'S'
                 JOIN pg_namespace n ON n.oid = q.relnamespace
                WHERE t.pubname = %s AND n.nspname = s.schemaname AND q.relname = s.sequencename)
 ORDER BY 1, 2
"""


def read_sequences(connection: Connection, publication: str) -> list[SequenceValue]:
    """The used sequences of the published tables' schemas, and those that the tables' columns own or have as default.

    Raises Halted if the role may not read one: its value would be missing after a promotion.
    """
    values = []
    for schema, name, value, increment, readable in connection.execute(
        _CARRIED, (publication, IGNORED_NAMESPACE, publication, publication)
    ):
        if not readable:
            raise Halted(
                "missing_privilege",
                "the role may not read the sequence",
                place=f"sequence {schema}.{name}",
                cure=f"GRANT SELECT ON SEQUENCE {schema}.{name}",
            )
        if value is not None:
            values.append(SequenceValue(schema, name, value, increment))
    return values


def pack_sequences(values: Collection[SequenceValue]) -> list[bytes]:
    """As statements."""
    return [pack_sequence(*value) for value in values]
