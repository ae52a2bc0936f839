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
EPOCH_PREFIX = "epoch-"  # of the transaction that begins an epoch


class SequenceValue(NamedTuple):
    """The last value that a sequence handed out, and its step."""

    namespace: str
    name: str
    value: int
    increment: int


# Those of the published tables' schemas, and those that their columns own or have as default.
_CARRIED = """
WITH published AS MATERIALIZED (
  SELECT c.oid, n.oid AS namespace, n.nspname FROM pg_publication_tables t
    JOIN pg_namespace n ON n.nspname = t.schemaname
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
   WHERE t.pubname = %s)
SELECT q.oid::int8, n.nspname, q.relname, s.seqincrement, has_sequence_privilege(q.oid, 'SELECT, USAGE')
  FROM pg_sequence s JOIN pg_class q ON q.oid = s.seqrelid JOIN pg_namespace n ON n.oid = q.relnamespace
 WHERE q.relpersistence <> 't' AND (
       q.relnamespace IN (SELECT namespace FROM published WHERE nspname <> %s)
    OR q.oid IN (SELECT d.objid FROM pg_depend d JOIN published p ON p.oid = d.refobjid
                  WHERE d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass
                    AND d.deptype IN ('a', 'i'))
    OR q.oid IN (SELECT d.refobjid FROM pg_attrdef f JOIN published p ON p.oid = f.adrelid
                   JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                    AND d.refclassid = 'pg_class'::regclass))
 ORDER BY 2, 3
"""
_AT_ONCE = 200  # reading a sequence locks it until the statement's end
_VALUES = """
SELECT oid::int8, CASE WHEN EXISTS (SELECT FROM pg_sequence WHERE seqrelid = oid)
                       THEN pg_sequence_last_value(oid::regclass) END FROM unnest(%s::oid[]) AS oid
"""


def read_sequences(connection: Connection, publication: str) -> list[SequenceValue]:
    """The used sequences of the published tables' schemas, and those that the tables' columns own or have as default.

    Raises Halted if the role may not read one: its value would be missing after a promotion.
    """
    carried = connection.execute(_CARRIED, (publication, IGNORED_NAMESPACE)).fetchall()
    for _, schema, name, _, readable in carried:
        if not readable:
            raise Halted(
                "missing_privilege",
                "the role may not read the sequence",
                place=f"sequence {schema}.{name}",
                cure=f"GRANT SELECT ON SEQUENCE {schema}.{name}",
            )
    last: dict[int, int | None] = {}
    for first in range(0, len(carried), _AT_ONCE):
        some = [oid for oid, *_ in carried[first : first + _AT_ONCE]]
        last |= dict(connection.execute(_VALUES, (some,)).fetchall())
    return [
        SequenceValue(schema, name, value, increment)
        for oid, schema, name, increment, _ in carried
        if (value := last[oid]) is not None
    ]


def pack_sequences(values: Collection[SequenceValue]) -> list[bytes]:
    """As statements."""
    return [pack_sequence(*value) for value in values]
