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
from functools import partial

from replicator.cluster.promotion.database import alone, drop_slot, open_quarantine, replicating, stands_at
from replicator.cluster.promotion.decide import PromoteStep, PromotionFacts, promotion
from replicator.cluster.promotion.epoch_block import Beginning, append_epoch
from replicator.cluster.promotion.readiness import check_tables, definitions_of, has_rows, strangers, tables_of
from replicator.cluster.promotion.sequences import move_own_sequences, move_sequences
from replicator.cluster.promotion.table_roles import adopted_at, as_primary
from replicator.errors import Halted
from replicator.format.definition import Definition
from replicator.pipeline.first_copy import last_captured
from replicator.pipeline.sources.postgres.chain_start import (
    BEGINS_NOTE,
    NUMBERS_NOTE,
    ChainStart,
    highest_number,
    numbering,
    origin_here,
    pack_begins,
    pack_numbering,
    read_begins,
)
from replicator.pipeline.sources.postgres.initial import SLOT_NOTE
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.publication import ensure_publication, has_publication
from replicator.pipeline.sources.postgres.relations import (
    BEFORE_NOTE,
    TABLE_NOTE,
    UNCARRIED_NOTE,
    pack_uncarried,
    uncarried,
)
from replicator.pipeline.sources.postgres.sequences import pack_sequences, read_sequences
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import Identity, check_server, create_slot, identify
from replicator.pipeline.sources.postgres.source import DATABASE_NOTE, PUBLICATION_NOTE, SYSTEM_NOTE, TIMELINE_NOTE
from replicator.pipeline.sources.postgres.stream_basis import BASIS_NOTE, pack_basis, read_basis
from replicator.postgres.catalog import all_oids
from replicator.postgres.session import Connection
from replicator.storage.journal.store import Journal

NOTES = "postgres."
BEGUN_NOTE = "postgres.promotion"  # what a promotion that was given up leaves behind is known by this, and taken back


class Promotion:
    """One call for a promotion. ``on_step`` hears of each step before it is done and after it: tests end it there."""

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
        self._basis = ""

    def run(self, epoch: int, now_us: int) -> None:
        """Do what remains. Raises Unavailable (call again) or Halted."""
        with alone(self._dsn, self._options) as connection:
            steps = promotion(self._look(connection), epoch)
            # Behind BEGIN the region may have taken writes: the database then is rightly not where replay left it.
            if PromoteStep.BEGIN in steps:
                check_state(connection, self._journal, self._strand)
                check_tables(connection, self._options, definitions_of(self._journal, self._strand))
                self._forget()
                self._journal.set_note(BEGUN_NOTE, str(epoch))
            for step in steps:
                self._on_step(f"before {step.name}")
                match step:
                    case PromoteStep.SEQUENCES:
                        move_sequences(connection, self._definitions(), self._reserve, self._epochs(epoch))
                    case PromoteStep.TABLES:
                        as_primary(connection, self._strand, self._definitions())
                    case PromoteStep.PUBLICATION:
                        self._publish()
                    case PromoteStep.SLOT:
                        self._make_slot()
                    case PromoteStep.BEGIN:
                        self._begin(connection, epoch)
                    case PromoteStep.EPOCH:
                        beginning = partial(self._beginning, connection, epoch)
                        append_epoch(self._journal, self._strand, epoch, now_us, beginning)
                self._on_step(f"after {step.name}")

    def _look(self, connection: Connection) -> PromotionFacts:
        return PromotionFacts(
            SYSTEM_NOTE in self._journal.notes(),
            adopted_at(connection, self._strand) is not None,
            self._journal.head(self._strand).epoch,
        )

    def _forget(self) -> None:
        """What the journal notes of an earlier time as a source is void, save what is ours in the server."""
        notes = self._journal.notes()
        ours = {key: notes[key] for key in (SLOT_NOTE, PUBLICATION_NOTE) if key in notes}
        if SYSTEM_NOTE in notes:
            self._journal.replace_notes(NOTES, ours)

    def _definitions(self) -> list[Definition]:
        return list(definitions_of(self._journal, self._strand).values())

    def _epochs(self, epoch: int) -> int:
        """How many epochs have begun since the chain's last one, with ``epoch``: each of those begins with the values
        of its sequences, so ours are no older than that."""
        return max(1, epoch - self._journal.head(self._strand).epoch) if self._reserve else 1

    def _beginning(self, connection: Connection, epoch: int) -> Beginning:
        """From where sequences go on: before any application may write, so that no later region begins there again."""
        notes = self._journal.notes()
        begins = read_begins(notes)
        is_new = begins is not None and begins.epoch == epoch
        last = last_captured(self._journal, self._strand)
        origin = origin_here(notes, last.sequence if last else 0, last.origin if last else None)
        if not origin:
            return Beginning()  # nothing was read of this server yet, its sequences neither
        with session(self._options) as source:
            if not is_new and self._epochs(epoch) > 1:
                own = read_sequences(source, self._options.publication)
                move_own_sequences(connection, own, self._definitions(), self._reserve, self._epochs(epoch))
            sequences = pack_sequences(read_sequences(source, self._options.publication))
        return Beginning(origin, sequences)

    def _publish(self) -> None:
        """It has to be there before the slot: the log is read by the catalogs of its time."""
        with session(self._options) as connection:
            # Noted before it is made: killed in between, the next call knows that it is ours. What somebody else has
            # made is not noted, and never dropped.
            if not has_publication(connection, self._options):
                self._journal.set_note(PUBLICATION_NOTE, self._options.publication)
                self._on_step("within PUBLICATION")
            ensure_publication(connection, self._options)
            self._basis = pack_basis(read_basis(connection, self._options))  # before the slot: see ``stream_basis``

    def _make_slot(self) -> None:
        """A slot that an earlier call left behind is made anew: it was never read, and nobody has written since."""
        name = self._options.slot
        drop_slot(self._options, ours=self._journal.notes().get(SLOT_NOTE) == name)
        self._journal.set_note(SLOT_NOTE, name)  # before it is made: what a kill leaves behind is known as ours
        self._on_step("within SLOT")
        with replicating(self._options) as replication:
            check_server(replication)
            identity = identify(replication)
            point, _ = create_slot(replication, name, failover=self._options.failover)
        self._slot_at = identity, point

    def _begin(self, connection: Connection, epoch: int) -> None:
        assert self._slot_at is not None, "the slot is made in the same call: it is the step before"
        identity, point = self._slot_at
        ours = self._journal.notes().get(PUBLICATION_NOTE) == self._options.publication
        new = {
            SYSTEM_NOTE: identity.system,
            DATABASE_NOTE: identity.database,
            TIMELINE_NOTE: str(identity.timeline),
            SLOT_NOTE: self._options.slot,
            BASIS_NOTE: self._basis,
            BEGINS_NOTE: pack_begins(ChainStart(epoch, self._journal.head(self._strand).sequence, point)),
            **({PUBLICATION_NOTE: self._options.publication} if ours else {}),
            **self._table_notes(connection),
        }
        self._journal.replace_notes(NOTES, new)

    def _table_notes(self, connection: Connection) -> dict[str, str]:
        """What ``relations`` would have noted, had it seen these tables from their beginning. A table that is not the
        ledger's and has no row counts as one that will be created later: its rows come through the stream."""
        every = list(self._journal.definitions(self._strand).values())
        known: dict[int, Definition] = {}
        notes: dict[str, str] = {}
        definitions = definitions_of(self._journal, self._strand)
        for name, facts in tables_of(connection, definitions).items():
            known[facts.oid] = definition = definitions[name]
            notes[f"{TABLE_NOTE}{facts.oid}"] = json.dumps((*facts.name, facts.storage))
            ours = uncarried(facts, {column.name for column in definition.columns})
            if ours:
                notes[f"{UNCARRIED_NOTE}{facts.oid}"] = pack_uncarried(ours)
            highest_ever = highest_number(other for other in every if other.name == definition.name)
            here = {a.name: a.number for a in facts.attributes if not a.dropped}
            highest_here = max((a.number for a in facts.attributes), default=0)
            numbers = numbering(definition, here, highest_ever, highest_here)
            if numbers.pairs:
                notes[f"{NUMBERS_NOTE}{facts.oid}"] = pack_numbering(numbers)
        with session(self._options) as source:
            empty = [facts.oid for facts in strangers(source, list(known)) if not has_rows(source, facts.name)]
        notes[BEFORE_NOTE] = json.dumps(sorted(set(all_oids(connection)) - set(empty)))
        return notes


def check_state(connection: Connection, journal: Journal, strand: str) -> None:
    """Raise Halted unless the database is the state at the journal's head."""
    head = journal.head(strand)
    place = f"strand {strand}, sequence {head.sequence}"
    if not head.sequence or not stands_at(connection, journal, strand, head):
        message = "the database is not at the journal's head: it has not followed, or lacks blocks of the journal"
        raise Halted("not_applied", message, place=place, cure="let replay come to the journal's end first")
    aside = open_quarantine(connection, strand)
    if aside:
        raise Halted(
            "quarantine_open",
            f"statements are set aside here: {', '.join(aside)}",
            place=place,
            cure="replicator quarantine replay CONFIG, or drop, then promote",
        )
