"""A replica's database becomes the primary's: sequences, tables, publication, slot, and where the chain goes on.

Given: the fence is closed, so nobody but us writes; replay is stopped; every block of the journal is applied. Then the
database is the state at the journal's head, and what it logs behind the new slot's first place is all new. So nothing
is copied, and replay's own writes are never captured: they are before that place.

Guarantee: until the last step but one (``BEGIN``) nothing in the journal says that this server is read, and all before
is done again by another call. ``BEGIN`` is one transaction of the journal. Behind it the slot is never touched.

Blocking: it belongs in a worker thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from replicator.definition import Definition
from replicator.errors import Halted
from replicator.journal.store import Journal
from replicator.promotion.base import append_epoch
from replicator.promotion.database import alone, has_own_tables, in_force, open_quarantine, replicating
from replicator.promotion.decide import PromoteStep, Promoting, promotion
from replicator.promotion.forward import move_sequences
from replicator.promotion.tables import as_primary
from replicator.replicas.postgres.replica import read_applied
from replicator.sources.postgres.begins import (
    BEGINS_NOTE,
    NUMBERS_NOTE,
    Begins,
    highest_number,
    numbering,
    pack_begins,
    pack_numbering,
)
from replicator.sources.postgres.catalog import TableFacts, all_oids, read_tables, table_oid
from replicator.sources.postgres.connection import Connection, connect
from replicator.sources.postgres.initial import SLOT_NOTE
from replicator.sources.postgres.options import PostgresOptions
from replicator.sources.postgres.publication import ensure_publication, has_publication
from replicator.sources.postgres.relations import BEFORE_NOTE, TABLE_NOTE
from replicator.sources.postgres.slot import Identity, create_slot, drop_own_slot, identify
from replicator.sources.postgres.source import DATABASE_NOTE, PUBLICATION_NOTE, SYSTEM_NOTE, TIMELINE_NOTE

NOTES = "postgres."


class Promotion:
    """One call. ``on_step`` hears of each step before it is done and after it, for tests that end it there."""

    def __init__(
        self,
        dsn: str,
        options: PostgresOptions,
        journal: Journal,
        strand: str,
        reserve: int,
        on_step: Callable[[str], None] = lambda where: None,
    ) -> None:
        self._dsn = dsn
        self._options = options
        self._journal = journal
        self._strand = strand
        self._reserve = reserve
        self._on_step = on_step
        self._slot_at: tuple[Identity, int] | None = None

    def run(self, epoch: int, now_us: int) -> None:
        """Do what remains. Raises Unavailable (call again) or Halted."""
        seen = Promoting(SYSTEM_NOTE in self._journal.notes(), self._journal.head(self._strand).epoch)
        steps = promotion(seen, epoch)
        if PromoteStep.BEGIN in steps:
            with alone(self._dsn, self._options) as connection:
                check_state(connection, self._journal, self._strand)
                for step in steps:
                    self._do(step, connection, epoch, now_us)
        else:
            for step in steps:
                self._do(step, None, epoch, now_us)

    def _do(self, step: PromoteStep, connection: Connection | None, epoch: int, now_us: int) -> None:
        self._on_step(f"before {step.name}")
        if step is PromoteStep.EPOCH:
            append_epoch(self._journal, self._strand, epoch, now_us)
        else:
            assert connection is not None
            match step:
                case PromoteStep.SEQUENCES:
                    move_sequences(connection, self._definitions(), self._reserve)
                case PromoteStep.TABLES:
                    as_primary(connection, self._strand, self._definitions())
                case PromoteStep.PUBLICATION:
                    self._publish()
                case PromoteStep.SLOT:
                    self._make_slot()
                case PromoteStep.BEGIN:
                    self._begin(connection, epoch)
        self._on_step(f"after {step.name}")

    def _definitions(self) -> list[Definition]:
        return [definition for _, definition in in_force(self._journal, self._strand).values()]

    def _publish(self) -> None:
        """It has to be there before the slot: the log is read by the catalogs of its time."""
        with connect(self._options) as connection:
            if not has_publication(connection, self._options):
                self._journal.set_note(PUBLICATION_NOTE, self._options.publication)
            ensure_publication(connection, self._options)

    def _make_slot(self) -> None:
        """A slot that an earlier call left behind is made anew: it was never read, and nobody has written since."""
        name = self._options.slot
        with connect(self._options) as connection:
            drop_own_slot(connection, name, ours=self._journal.notes().get(SLOT_NOTE) == name)
        self._journal.set_note(SLOT_NOTE, name)
        with replicating(self._options) as replication:
            identity = identify(replication)
            point, _ = create_slot(replication, name)
        self._slot_at = identity, point

    def _begin(self, connection: Connection, epoch: int) -> None:
        assert self._slot_at is not None
        identity, point = self._slot_at
        head, notes = self._journal.head(self._strand), self._journal.notes()
        ours = notes.get(PUBLICATION_NOTE) == self._options.publication
        begins = Begins(epoch, head.sequence, head.hash.hex(), point, ours)
        new = {
            SYSTEM_NOTE: identity.system,
            DATABASE_NOTE: identity.database,
            TIMELINE_NOTE: str(identity.timeline),
            SLOT_NOTE: self._options.slot,
            BEGINS_NOTE: pack_begins(begins),
            **({PUBLICATION_NOTE: self._options.publication} if ours else {}),
            **self._table_notes(connection),
        }
        self._journal.replace_notes(NOTES, new)

    def _table_notes(self, connection: Connection) -> dict[str, str]:
        """What ``relations`` would have noted, had it seen these tables from their beginning."""
        every = list(self._journal.definitions(self._strand).values())
        known, notes = {}, {}
        for definition in self._definitions():
            oid = table_oid(connection, definition.name)
            if oid is None:
                raise _gone(definition)
            known[oid] = definition
        for facts in read_tables(connection, list(known)):
            definition = known[facts.oid]
            notes[f"{TABLE_NOTE}{facts.oid}"] = json.dumps((*facts.name, facts.storage))
            highest_ever = highest_number(other for other in every if other.name == definition.name)
            here = {a.name: a.number for a in facts.attributes if not a.dropped}
            highest_here = max((a.number for a in facts.attributes), default=0)
            numbers = numbering(definition, here, highest_ever, highest_here)
            if numbers.pairs:
                notes[f"{NUMBERS_NOTE}{facts.oid}"] = pack_numbering(numbers)
        strangers = set(all_oids(connection)) - set(known)
        empty = {facts.oid for facts in read_tables(connection, strangers) if not _has_rows(connection, facts)}
        notes[BEFORE_NOTE] = json.dumps(sorted(set(known) | strangers - empty))
        return notes


def check_state(connection: Connection, journal: Journal, strand: str) -> None:
    """Raise Halted unless the database is the state at the journal's head."""
    head = journal.head(strand)
    place = f"strand {strand}, sequence {head.sequence}"
    applied = read_applied(connection, strand) if has_own_tables(connection) else None
    position = applied.position if applied else None
    if position is None or journal.position_at(strand, position.sequence) != position:
        message = f"the database is at {position or 'no position'}, which is not on the journal's chain"
        raise Halted("not_a_replica", message, place=place, cure="promote a region that has followed")
    for block in journal.blocks(strand, position.sequence, 1 << 20):
        if block.header.statements:
            message = f"the database is at sequence {position.sequence}: it lacks blocks of the journal"
            raise Halted("not_applied", message, place=place, cure="let replay come to the journal's end first")
    aside = open_quarantine(connection, strand)
    if aside:
        raise Halted(
            "quarantine_open",
            f"statements are set aside here: {', '.join(aside)}",
            place=place,
            cure="replicator quarantine replay or drop, then promote",
        )


def _has_rows(connection: Connection, facts: TableFacts) -> bool:
    name = ".".join('"' + part.replace('"', '""') + '"' for part in facts.name)
    return connection.execute(f"SELECT FROM {name} LIMIT 1".encode()).fetchone() is not None


def _gone(definition: Definition) -> Halted:
    return Halted(
        "table_missing",
        "the ledger has this table, the database has not",
        place=f"table {definition.label}",
        cure="make this region anew: replicator bootstrap",
    )
