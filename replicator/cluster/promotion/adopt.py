"""A primary's database becomes a replica at a position, without a copy.

Given: the fence is closed; what the slot held is in the journal (``remaining_log``); the rows are those of the
position: what others never received is undone, elsewhere. Then all that is missing is what a replica writes down beside
its rows.

A *withdrawal* is the same for a promotion that was given up: the database stands where replay left it, for its fence
was never opened, and whatever the promotion had begun goes.

Guarantee: the database takes its position, its definitions and what replay needs of the tables in one transaction;
after that the slot and the publication go, if they are ours, and last what the journal notes of the server. Killed
between any two steps, another call goes on; a database that has replayed since is left as it is.

Blocking: it belongs in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.cluster.promotion.database import alone, drop_slot, has_own_tables, in_force, open_quarantine, stands_at
from replicator.cluster.promotion.decide import AdoptionFacts, AdoptStep, adoption
from replicator.cluster.promotion.promote import NOTES
from replicator.cluster.promotion.table_roles import adopted_at, as_replica
from replicator.errors import Halted
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.pipeline.replicas.postgres import user_schema
from replicator.pipeline.replicas.postgres.replica import read_applied
from replicator.pipeline.replicas.postgres.schema import create_own_tables
from replicator.pipeline.sources.postgres.chain_start import read_begins
from replicator.pipeline.sources.postgres.initial import SLOT_NOTE
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.publication import has_publication
from replicator.pipeline.sources.postgres.sequences import read_sequences
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import read_slot
from replicator.pipeline.sources.postgres.source import CAPTURED_NOTE, PUBLICATION_NOTE, SYSTEM_NOTE
from replicator.postgres.catalog import exists
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Connection
from replicator.storage.journal.store import Journal


class Adoption:
    """One call for an adoption. ``on_step`` hears of each step before it is done and after it: tests end it there."""

    def __init__(
        self,
        dsn: str,
        options: PostgresOptions,
        journal: Journal,
        strand: str,
        on_step: Callable[[str], None] = lambda where: None,
    ) -> None:
        self._dsn = dsn
        self._options = options
        self._journal = journal
        self._strand = strand
        self._on_step = on_step

    def run(self, position: Position) -> None:
        """Do what remains. Raises Unavailable (call again) or Halted."""
        with alone(self._dsn, self._options) as connection:
            taken = adopted_at(connection, self._strand) == str(position)
            self._do(self._look(taken=taken), lambda: self._take(connection, position))

    def withdraw(self) -> None:
        """Take back what a promotion has begun that was not carried through. Nobody has written since."""
        if not self._notes():  # the promotion noted that it began, before anything else
            return
        with alone(self._dsn, self._options) as connection:
            self._check_unwritten(connection)
            self._do(self._look(taken=False), lambda: self._take_back(connection))

    def has_led(self) -> bool:
        """Whether applications may have written here since this region was promoted, or began as the primary."""
        if not self._notes():
            return False
        with alone(self._dsn, self._options) as connection:
            return self._may_be_written(connection)

    def abandon(self) -> bool:
        """The database's rows are to be replaced: its tables are known as the ledger's, and slot and publication go.
        What the slot holds and the journal has not is given up. Whether there was anything."""
        if not self._notes():
            return False
        with alone(self._dsn, self._options) as connection:
            self._do(self._look(taken=False), lambda: self._know_tables(connection))
        return True

    def _do(self, facts: AdoptionFacts, take: Callable[[], None]) -> None:
        for step in adoption(facts):
            self._on_step(f"before {step.name}")
            match step:
                case AdoptStep.TAKE:
                    take()
                case AdoptStep.SLOT:
                    self._drop_slot()
                case AdoptStep.PUBLICATION:
                    self._drop_publication()
                case AdoptStep.NOTES:
                    self._journal.replace_notes(NOTES, {})
            self._on_step(f"after {step.name}")

    def _notes(self) -> dict[str, str]:
        """What the journal notes of a source."""
        return {key: text for key, text in self._journal.notes().items() if key.startswith(NOTES)}

    def _look(self, *, taken: bool) -> AdoptionFacts:
        notes = self._notes()
        with session(self._options) as source:
            slot = notes.get(SLOT_NOTE) == self._options.slot and read_slot(source, self._options.slot) is not None
            publication = notes.get(PUBLICATION_NOTE) == self._options.publication and has_publication(
                source, self._options
            )
        return AdoptionFacts(taken, slot, publication, bool(notes))

    def _check_unwritten(self, connection: Connection) -> None:
        """Raise Halted if applications may have written here: then it is a former primary's way back that is due."""
        if self._may_be_written(connection):
            message = (
                "the journal says that this region has led, and its role is a replica's: its last writes may be here"
            )
            cure = "put role.json back from a copy, or make the region anew: replicator bootstrap CONFIG --replace"
            raise Halted("has_led", message, place=f"strand {self._strand}", cure=cure)

    def _may_be_written(self, connection: Connection) -> bool:
        begins = read_begins(self._notes())
        if begins is None and SYSTEM_NOTE not in self._notes():
            return False  # it was given up before it could have led
        row = None
        if exists(connection, "replicator.fencing"):
            row = connection.execute("SELECT epoch FROM replicator.fencing").fetchone()
        return begins is None or row is None or row[0] >= begins.epoch

    def _know_tables(self, connection: Connection) -> None:
        create_own_tables(connection)
        with connection.transaction():
            self._write_definitions(connection, self._journal.head(self._strand))

    def _take_back(self, connection: Connection) -> None:
        """The tables are a replica's again, where replay left them."""
        applied = read_applied(connection, self._strand) if has_own_tables(connection) else None
        if applied is None:
            return  # it was never replayed into, and a promotion would have been refused
        position = applied.position
        user_schema.silence(connection)
        with connection.transaction():
            as_replica(connection, self._journal, position, self._definitions(position))

    def _definitions(self, position: Position) -> list[Definition]:
        return [definition for _, definition in in_force(self._journal, self._strand, position.sequence).values()]

    def _take(self, connection: Connection, position: Position) -> None:
        self._check(connection, position)
        definitions = self._definitions(position)
        with session(self._options) as source:
            carried = read_sequences(source, self._options.publication)
        create_own_tables(connection)
        user_schema.silence(connection)
        with connection.transaction():
            as_replica(connection, self._journal, position, definitions)
            self._write_definitions(connection, position)
            for value in carried:  # the further one counts: a sequence never goes back, in whichever direction it runs
                further = b"greatest" if value.increment > 0 else b"least"
                connection.execute(  # %%s is the driver's, and outlives the formatting here
                    b"INSERT INTO replicator.sequence AS s VALUES (%%s, %%s, %%s, %%s) ON CONFLICT (namespace, name)"
                    b" DO UPDATE SET value = %b(s.value, excluded.value), increment = excluded.increment" % further,
                    value,
                )
            self._write_position(connection, position)

    def _check(self, connection: Connection, position: Position) -> None:
        place = f"strand {self._strand}, sequence {position.sequence}"
        if self._journal.position_at(self._strand, position.sequence) != position:
            message = "the position is not on the journal's chain"
            raise Halted("not_in_journal", message, place=place, cure="adopt at a position that the journal holds")
        notes = self._journal.notes()
        # Either of two things proves that the rows are those of the position: all that this server logged is in the
        # journal, or replay has brought it there.
        is_source = SYSTEM_NOTE in notes
        if not is_source and not stands_at(connection, self._journal, self._strand, position):
            message = "nothing says that the database has the rows of this position: it was no source, and is elsewhere"
            raise Halted(
                "not_captured",
                message,
                place=place,
                cure="make this region anew: replicator bootstrap CONFIG --replace",
            )
        if is_source and not notes.get(CAPTURED_NOTE):
            message = "what the slot holds is not known to be in the journal"
            raise Halted("not_captured", message, place=place, cure="capture the rest first; the fence stays closed")
        aside = open_quarantine(connection, self._strand) if has_own_tables(connection) else []
        if aside:
            message = f"statements of an earlier time are set aside: {', '.join(aside)}"
            raise Halted(
                "quarantine_open",
                message,
                place=place,
                cure="replicator quarantine drop CONFIG SEQUENCE ORDINAL --reason TEXT, then go on",
            )

    def _write_definitions(self, connection: Connection, position: Position) -> None:
        connection.execute("DELETE FROM replicator.definition WHERE strand = %s", (self._strand,))
        definitions: dict[int, Definition] = self._journal.definitions(self._strand, position.sequence)
        for relation, packed in self._journal.definitions_in_order(self._strand, position.sequence):
            connection.execute(
                "INSERT INTO replicator.definition (strand, relation, namespace, name, definition)"
                " VALUES (%s, %s, %s, %s, %s)",
                (self._strand, relation, *definitions[relation].name, packed),
            )

    def _write_position(self, connection: Connection, position: Position) -> None:
        """Write the position down: all blocks up to there count as applied."""
        block = self._journal.block(self._strand, position.sequence)
        committed_at = block.header.committed_at if block else self._journal.base_high_at(self._strand) or 0
        connection.execute("DELETE FROM replicator.position WHERE strand = %s", (self._strand,))
        connection.execute(
            "INSERT INTO replicator.position VALUES (%s, %s, %s, %s, %s, %s)",
            (*position, committed_at, position.sequence),
        )

    def _drop_slot(self) -> None:
        drop_slot(self._options, ours=True)

    def _drop_publication(self) -> None:
        with session(self._options) as source:
            source.execute(f"DROP PUBLICATION {quoted(self._options.publication)}".encode())
