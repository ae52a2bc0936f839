"""From PostgreSQL's facts to a definition. Pure.

Guarantee: the initial copy and the stream make equal definitions of the same table. Where a Relation message speaks of
an older shape than the catalogs, columns are matched by what is certain (name and type, the numbers that were known
before, elimination), and what stays ambiguous halts instead of being guessed.

A column is not NULL in a definition if it was so in the copy, or belongs to the key. SET NOT NULL that comes later is
not carried: older changes that are still in the log may hold NULLs.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Collection, Sequence
from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.definition import Column, Definition, Format
from replicator.format.evolution import recopy, widens
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.postgres.catalog import Attribute, TableFacts, TableName

# Types whose binary form is the same in every PostgreSQL that is supported and holds no oids.
SAFE_BINARY_OIDS = frozenset({16, 17, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1082, 1114, 1184, 1700, 2950, 3802})
IDENTITY_FULL, IDENTITY_NOTHING, IDENTITY_INDEX = "f", "n", "i"


class RelationColumn(NamedTuple):
    """A column as a Relation message describes it; ``identity`` if it belongs to the replica identity."""

    name: str
    type_oid: int
    modifier: int
    identity: bool


class Relation(NamedTuple):
    """A table as a Relation message describes it."""

    oid: int
    namespace: str
    table: str
    identity: str
    columns: tuple[RelationColumn, ...]

    @property
    def name(self) -> TableName:
        return (self.namespace, self.table)


def parse_relation(message: bytes, at: int) -> Relation:
    """Read a Relation message; ``at`` is the place behind its kind byte. Raises struct.error or ValueError."""
    (oid,) = struct.unpack_from(">I", message, at)
    namespace, at = _string(message, at + 4)
    table, at = _string(message, at)
    identity, count = struct.unpack_from(">cH", message, at)
    at += 3
    columns = []
    for _ in range(count):
        flags = message[at]
        name, at = _string(message, at + 1)
        type_oid, modifier = struct.unpack_from(">Ii", message, at)
        at += 8
        columns.append(RelationColumn(name, type_oid, modifier, bool(flags & 1)))
    return Relation(oid, namespace or "pg_catalog", table, identity.decode(), tuple(columns))


def _string(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(b"\0", at)
    return message[at:end].decode(), end + 1


def published_attributes(facts: TableFacts, *, generated: bool) -> list[Attribute]:
    """The columns that the stream carries; stored generated ones only if ``generated``, virtual ones never."""
    return [
        attribute
        for attribute in facts.attributes
        if not attribute.dropped and (not attribute.generated or (generated and attribute.generated == "s"))
    ]


def can_be_binary(tables: Sequence[TableFacts], *, generated: bool) -> bool:
    """Whether every published column of every table has a type of the safe list."""
    return all(
        attribute.type_oid in SAFE_BINARY_OIDS
        for table in tables
        for attribute in published_attributes(table, generated=generated)
    )


def relation_of(facts: TableFacts, *, generated: bool) -> Relation:
    """The Relation message that the stream would send for the table as it is now."""
    columns = published_attributes(facts, generated=generated)
    if facts.identity == IDENTITY_FULL:
        flagged = {column.name for column in columns}
    elif facts.identity == IDENTITY_NOTHING or (facts.identity == "d" and facts.key_deferrable):
        flagged = set()
    else:
        flagged = set(facts.identity_key if facts.identity == IDENTITY_INDEX else facts.key)
    return Relation(
        facts.oid,
        facts.namespace,
        facts.table,
        facts.identity,
        tuple(RelationColumn(c.name, c.type_oid, c.modifier, c.name in flagged) for c in columns),
    )


def define(
    relation: Relation,
    facts: TableFacts | None,
    types: Sequence[str],
    known: Definition | None,
    options: PostgresOptions,
    *,
    binary: bool,
    certain: Collection[int] = (),
    copying: bool = False,
) -> Definition:
    """The definition of a table from a Relation message and the catalogs' facts (None: the table is gone by now).

    ``types`` are the SQL names of the message's types, ``known`` is the definition in force; ``certain`` are the column
    numbers that the catalogs are known to have had already when the message's transaction committed.
    Raises Halted if the columns cannot be told apart.
    """
    numbers = _numbers(relation, facts, types, known, certain)
    by_number = {a.number: a for a in facts.attributes} if facts else {}
    before = {column.number or column.name: column for column in known.columns} if known else {}
    key = _key(relation, facts, known)
    format_: Format = "binary" if binary else "text"
    columns = []
    for column, number, type_ in zip(relation.columns, numbers, types, strict=True):
        attribute, old = by_number.get(number), before.get(number or column.name)
        described = Column(column.name, type_, format_, number=number)
        if old is not None:
            described = dataclasses.replace(
                described,
                nullable=column.name not in key and (old.nullable or attribute is None or attribute.nullable),
                missing=old.missing,
                sequence=attribute.sequence if attribute else old.sequence,
            )
        elif attribute is not None:
            described = dataclasses.replace(
                described,
                nullable=column.name not in key and (not copying or attribute.nullable),
                missing=None if copying or known is None else attribute.missing,
                sequence=attribute.sequence,
            )
        columns.append(described)
    user = _user(relation, options)
    return Definition(relation.namespace, relation.table, tuple(columns), key, user)


def check_added(known: Definition, new: Definition, facts: TableFacts | None, *, rewritten: bool) -> None:
    """Raise Halted if an added column may have values in older rows that no message brought.

    A default that is the same for every row is kept by PostgreSQL as the column's missing value. Any other (volatile,
    an identity, a generated column) makes it rewrite the table without a word in the log.
    """
    if not rewritten:
        return
    numbers = {column.number for column in known.columns}
    attributes = {a.number: a for a in facts.attributes} if facts else {}
    for column in new.columns:
        if column.number in numbers or column.missing is not None:
            continue
        attribute = attributes.get(column.number)
        if attribute is None or attribute.filled or attribute.dropped:
            raise Halted(
                "column_rewritten",
                f"column {column.name} was added with a default that older rows got without being logged",
                place=f"table {new.label}",
                cure=f"{recopy(new.name)}; next time add the column without a default, then UPDATE, then set the"
                " default",
            )


def _numbers(
    relation: Relation,
    facts: TableFacts | None,
    types: Sequence[str],
    known: Definition | None,
    certain: Collection[int],
) -> list[int]:
    """The column numbers of the message's columns: from the catalogs by name and type, else as known, else by order."""
    current = {a.name: a.number for a in facts.attributes if not a.dropped} if facts else {}
    before = {column.name: column.number for column in known.columns} if known else {}
    if facts is None:  # the table is gone; nobody can tell renames in it any more, and names have to do
        return [before.get(column.name, 0) for column in relation.columns]
    numbers: list[int] = []
    for column in relation.columns:
        now, then = current.get(column.name), before.get(column.name)
        if now is not None and then is not None and now != then and now not in certain:
            raise _ambiguous(relation, f"column {column.name} was dropped and added again")
        numbers.append(now or then or 0)
    _fill_by_order(relation, facts, types, numbers)
    if any(a >= b for a, b in itertools.pairwise(numbers)):
        raise _ambiguous(relation, "columns were renamed, dropped or added since this part of the log was written")
    return numbers


def _fill_by_order(relation: Relation, facts: TableFacts, types: Sequence[str], numbers: list[int]) -> None:
    """Columns come in the order of their numbers: a column without one takes the only number that fits its place."""
    for place, number in enumerate(numbers):
        if number:
            continue
        low = max((n for n in numbers[:place] if n), default=0)
        high = min((n for n in numbers[place + 1 :] if n), default=1 << 15)
        type_ = types[place]
        fits = [a.number for a in facts.attributes if low < a.number < high and (a.dropped or widens(type_, a.type))]
        if len(fits) != 1:
            raise _ambiguous(relation, f"column {relation.columns[place].name} is not in the catalogs any more")
        numbers[place] = fits[0]


def _key(relation: Relation, facts: TableFacts | None, known: Definition | None) -> tuple[str, ...]:
    """The key in its index's order. FULL and NOTHING do not tell it: then the primary key."""
    names = {column.name for column in relation.columns}
    candidates = [facts.key, facts.identity_key] if facts else []
    candidates += [known.key] if known else []
    if relation.identity in (IDENTITY_FULL, IDENTITY_NOTHING):
        primary = [facts.key] if facts else []
        primary += [known.key] if known else []
        return next((key for key in primary if set(key) <= names), ())
    flagged = tuple(column.name for column in relation.columns if column.identity)
    for candidate in candidates:
        if set(candidate) == set(flagged):
            return candidate
    return flagged


def _user(relation: Relation, options: PostgresOptions) -> str | None:
    column, named = options.user_column_of(relation.name)
    if column is None or any(c.name == column for c in relation.columns):
        return column
    if named:
        raise Halted(
            "no_user_column",
            f"there is no column {column} for the user's id",
            place=f"table {'.'.join(relation.name)}",
            cure="correct the table's user column in the configuration",
        )
    return None


def _ambiguous(relation: Relation, message: str) -> Halted:
    return Halted("ambiguous_columns", message, place=f"table {'.'.join(relation.name)}", cure=recopy(relation.name))
