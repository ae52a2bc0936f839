"""The tables of the stream: which relation number and definition the rows of a message are read by.

Guarantee: a definition is resolved before the first row that needs it; a table whose earlier rows the journal does not
have, or that is not the one of that name any more, halts the source.

What is noted beside the journal: for each table its oid, name and storage (``postgres.table.<oid>``), and the oids of
all tables that existed when the copy was made (``postgres.tables_before``), and the generated columns that the table
has and the ledger has not (``postgres.uncarried.<oid>``): each region computes them by itself, and where a server
publishes them they are left out. A table that is neither known nor among
those was created later, so all its rows come through the stream. In a promoted database a table's columns may have
other numbers than in the ledger (``begins``): what the catalogs say is compared by the database's, what is sent has
the ledger's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.definition import Definition
from replicator.format.evolution import changes, recopy
from replicator.pipeline.sources.base import Sink, SourceState
from replicator.pipeline.sources.postgres.chain_start import Numbering, read_numberings
from replicator.pipeline.sources.postgres.definitions import (
    SAFE_BINARY_OIDS,
    Relation,
    check_added,
    define,
    published_attributes,
    relation_of,
)
from replicator.pipeline.sources.postgres.options import IGNORED_NAMESPACE, PostgresOptions
from replicator.pipeline.sources.postgres.pgoutput import StreamTable
from replicator.pipeline.sources.postgres.publication import Publication
from replicator.postgres.catalog import TableFacts, TableName, read_table
from replicator.postgres.lsn import lsn_text, parse_lsn
from replicator.postgres.session import Connection, Worker

TABLE_NOTE = "postgres.table."
BEFORE_NOTE = "postgres.tables_before"
UNCARRIED_NOTE = "postgres.uncarried."
PASSED_NOTE = "postgres.passed."  # by oid: the place in the log up to which a table's changes are in a copy of it


# What was written under the other name is in the log under it, whatever the table is called by then.
RENAMED_CURE = "if nothing was written to it under this name: rename it back and start the sidecar anew; else "


class TextFormatNeeded(Exception):
    """A type came up whose binary form does not travel: the stream has to be opened again, in text."""


class ResolvedTable(NamedTuple):
    """A table for the assembler; ``new`` if its definition has to be sent first. With ``until`` it holds only for
    transactions that commit before that place in the log."""

    table: StreamTable
    new: bool
    until: int = 0


class RelationCache:
    """All that is known of tables, from the journal and its notes; shared by the copy and the stream."""

    def __init__(self, state: SourceState, sink: Sink, options: PostgresOptions) -> None:
        self._sink = sink
        self._options = options
        self._known: dict[TableName, tuple[int, Definition]] = {}
        for relation, definition in sorted(state.relations.items()):
            self._known[definition.name] = (relation, definition)
        self._next = max(state.relations, default=0) + 1
        self._noted: dict[int, tuple[str, str, str]] = {
            int(key.removeprefix(TABLE_NOTE)): tuple(json.loads(value))
            for key, value in state.notes.items()
            if key.startswith(TABLE_NOTE)
        }
        self._uncarried: dict[int, dict[int, str]] = {
            int(key.removeprefix(UNCARRIED_NOTE)): unpack_uncarried(value)
            for key, value in state.notes.items()
            if key.startswith(UNCARRIED_NOTE)
        }
        self._passed: dict[int, int] = {
            int(key.removeprefix(PASSED_NOTE)): parse_lsn(value)
            for key, value in state.notes.items()
            if key.startswith(PASSED_NOTE)
        }
        self._before = frozenset(json.loads(state.notes.get(BEFORE_NOTE, "[]")))
        self._numberings = read_numberings(state.notes)
        self._at_start: dict[int, frozenset[int]] = {}
        self._start_lsn = 0
        self._seen: set[int] = set()

    @property
    def followed(self) -> Collection[int]:
        """The oids of the tables whose rows the journal has."""
        return self._noted.keys()

    async def note_before(self, oids: Sequence[int]) -> None:
        """Keep which tables exist as the copy is made."""
        self._before = frozenset(oids)
        await self._sink.note(BEFORE_NOTE, json.dumps(sorted(oids)))

    async def first(self, facts: TableFacts, publication: Publication, *, binary: bool) -> tuple[int, Definition]:
        """Number and definition of a table as it is copied."""
        relation = relation_of(facts, generated=publication.generated)
        types = [a.type for a in published_attributes(facts, generated=publication.generated)]
        definition = define(relation, facts, types, None, self._options, binary=binary, copying=True)
        number = self._number(definition)
        await self._note(facts.oid, facts.name, facts.storage)
        await self._note_uncarried(facts, {column.name for column in relation.columns})
        return number, definition

    def relations_of(self, facts: TableFacts) -> list[int]:
        """The numbers under which the ledger has rows of this table, or of one that it takes the place of."""
        names = {facts.name}
        former = self._noted.get(facts.oid)
        # Where another table took this one's former name and was copied, what bears that name is the other one's.
        if former and all(oid == facts.oid or noted[:2] != former[:2] for oid, noted in self._noted.items()):
            names.add(former[:2])
        return sorted(number for name, (number, _) in self._known.items() if name in names)

    async def pass_over(self, facts: TableFacts, until: int) -> None:
        """Changes that commit before this place are in a copy of the table: of it, and of one that had its name."""
        former = [oid for oid, (*name, _) in self._noted.items() if tuple(name) == facts.name and oid != facts.oid]
        for oid in (facts.oid, *former):
            await self._sink.note(f"{PASSED_NOTE}{oid}", lsn_text(until))
            self._passed[oid] = until

    def passed_until(self, oid: int) -> int:
        """The place before which what commits is passed over, of a table; 0: nothing is."""
        return self._passed.get(oid, 0)

    def begin_session(self, tables: Sequence[TableFacts], lsn: int, publication: Publication) -> None:
        """A stream begins; the catalogs said this of the published tables when the log ended at ``lsn``."""
        self._publication = publication
        self._start_lsn = lsn
        self._seen.clear()
        self._at_start = {table.oid: _numbers(table) for table in tables}
        for table in tables:
            self._check_complete(table.oid, table.name)

    async def resolve(self, relation: Relation, commit_lsn: int, worker: Worker, *, binary: bool) -> ResolvedTable:
        """The table that a Relation message announces. Raises Halted, Unavailable or NeedsText."""
        if relation.namespace == IGNORED_NAMESPACE:
            return ResolvedTable(_ignored(relation), new=False)
        if commit_lsn < self.passed_until(relation.oid):
            return ResolvedTable(_ignored(relation), new=False, until=self.passed_until(relation.oid))
        if binary and not all(column.type_oid in SAFE_BINARY_OIDS for column in relation.columns):
            raise TextFormatNeeded
        self._check_complete(relation.oid, relation.name)
        sent = relation
        facts, types = await worker.call(_look_up, relation)
        skipped = self._skipped(relation, facts)
        if skipped:
            left = [place for place in range(len(types)) if place not in skipped]
            relation = relation._replace(columns=tuple(relation.columns[place] for place in left))
            types = [types[place] for place in left]
        if "???" in types:
            raise Halted(
                "unknown_type", "a column's type was dropped", place=_place(relation.name), cure=recopy(relation.name)
            )
        number, known = self._known.get(relation.name, (0, None))
        numbering = self._numberings.get(relation.oid, Numbering())
        known_here = numbering.here(known) if known else None
        found = define(
            relation,
            facts,
            types,
            known_here,
            self._options,
            binary=binary,
            certain=self._certain(relation, commit_lsn, facts),
        )
        definition = numbering.in_ledger(found)
        noted = self._noted.get(relation.oid)
        if known is not None and known_here is not None and definition != known:
            changes(known, definition)
            check_added(known_here, found, facts, rewritten=not (noted and facts and noted[2] == facts.storage))
        new = definition != known
        if new:
            number = self._number(definition)
        self._seen.add(relation.oid)
        if facts is not None:
            await self._note_uncarried(facts, {column.name for column in sent.columns})
        await self._note_storage(relation, facts, found)
        return ResolvedTable(StreamTable(number, definition, definition.key_places, skipped), new)

    def _skipped(self, relation: Relation, facts: TableFacts | None) -> tuple[int, ...]:
        """The places of the message's columns that the ledger has not because they are generated."""
        uncarried = self._uncarried.get(relation.oid)
        if not uncarried:
            return ()
        now = {a.name: a for a in facts.attributes if not a.dropped} if facts else {}
        places = []
        for place, column in enumerate(relation.columns):
            attribute = now.get(column.name)
            if attribute is None and column.name in uncarried.values():
                places.append(place)  # dropped since
            elif attribute is not None and attribute.number in uncarried:
                if not attribute.generated:
                    raise Halted(
                        "column_rewritten",
                        f"column {column.name} was a generated one, and was not carried; now it is an ordinary one,"
                        " and what older rows hold there is not in the journal",
                        place=_place(relation.name),
                        cure=recopy(relation.name),
                    )
                places.append(place)
        return tuple(places)

    def _certain(self, relation: Relation, commit_lsn: int, facts: TableFacts | None) -> frozenset[int]:
        """Numbers of columns that the table had already when the transaction that names it committed."""
        if facts is not None and relation.oid in self._seen:  # it is announced again because it was altered
            return _numbers(facts)
        if commit_lsn > self._start_lsn:
            return self._at_start.get(relation.oid, frozenset())
        return frozenset()

    def _check_complete(self, oid: int, name: TableName) -> None:
        """Raise Halted unless the journal has all of the table's rows, or will get them."""
        noted = self._noted.get(oid)
        if noted is not None:
            if noted[:2] != name:
                message = f"table {'.'.join(noted[:2])} was renamed to {'.'.join(name)}"
                raise Halted("table_renamed", message, place=_place(name), cure=RENAMED_CURE + recopy(name))
            return
        if name in self._known:
            message = "the table was dropped and created again; the old one's rows went without being logged"
            raise Halted("table_replaced", message, place=_place(name), cure=recopy(name))
        if oid in self._before or not self._publication.all_tables:
            message = "the table came into the publication after the copy; rows that it had are missing"
            raise Halted("table_not_copied", message, place=_place(name), cure=recopy(name))

    def _number(self, definition: Definition) -> int:
        number, self._next = self._next, self._next + 1
        self._known[definition.name] = (number, definition)
        return number

    async def _note_storage(self, relation: Relation, facts: TableFacts | None, definition: Definition) -> None:
        """Keep the storage as one that belongs to the definition, if the catalogs are not ahead of the stream."""
        if (
            facts is not None
            and {c.number for c in definition.columns}
            == {a.number for a in published_attributes(facts, generated=self._publication.generated)}
            - self._uncarried.get(relation.oid, {}).keys()
        ):
            await self._note(relation.oid, relation.name, facts.storage)
        elif relation.oid not in self._noted:
            await self._note(relation.oid, relation.name, "")

    async def _note_uncarried(self, facts: TableFacts, sent: Collection[str]) -> None:
        """Keep which generated columns no message brought."""
        known = self._uncarried.get(facts.oid, {})
        found = {**known, **uncarried(facts, sent)}
        if found != known:
            await self._sink.note(f"{UNCARRIED_NOTE}{facts.oid}", pack_uncarried(found))
            self._uncarried[facts.oid] = found

    async def _note(self, oid: int, name: TableName, storage: str) -> None:
        value = (*name, storage)
        if self._noted.get(oid) != value:
            await self._sink.note(f"{TABLE_NOTE}{oid}", json.dumps(value))
            self._noted[oid] = value


def _ignored(relation: Relation) -> StreamTable:
    return StreamTable(None, Definition(*relation.name, (), ()), ())


def uncarried(facts: TableFacts, carried: Collection[str]) -> dict[int, str]:
    """The generated columns that are not among these, by number."""
    return {a.number: a.name for a in facts.attributes if a.generated and not a.dropped and a.name not in carried}


def pack_uncarried(columns: Mapping[int, str]) -> str:
    """As a note."""
    return json.dumps(sorted(columns.items()))


def unpack_uncarried(note: str) -> dict[int, str]:
    """By number."""
    return {int(number): str(name) for number, name in json.loads(note)}


def _look_up(connection: Connection, relation: Relation) -> tuple[TableFacts | None, list[str]]:
    row = connection.execute(
        "SELECT array_agg(coalesce(format_type(t, m), '???') ORDER BY place)"
        " FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS x (t, m, place)",
        ([column.type_oid for column in relation.columns], [column.modifier for column in relation.columns]),
    ).fetchone()
    return read_table(connection, relation.oid), (row[0] if row else None) or []


def _numbers(facts: TableFacts) -> frozenset[int]:
    return frozenset(a.number for a in facts.attributes if not a.dropped)


def _place(name: TableName) -> str:
    return f"table {'.'.join(name)}"
