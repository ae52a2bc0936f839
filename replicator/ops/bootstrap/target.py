"""What is in the region that is made anew: looked at without a trace, and filled.

Guarantee: ``look`` changes nothing, and finds a region in whatever state it is. A database's tables are emptied in the
transaction that begins the copy, and only those that this ledger's replica made. Every step may be interrupted and done
again. All calls block.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from replicator.config import Config, PostgresReplicaSettings, SqliteReplicaSettings
from replicator.errors import Corrupt, Halted, Unavailable
from replicator.format.definition import Definition, unpack_definition
from replicator.format.position import Position
from replicator.ops.bootstrap.decide import RegionContents
from replicator.ops.bootstrap.former_life import former_files
from replicator.pipeline.copies.partial_copy import HALF_COPY, mark_of, read_half
from replicator.pipeline.copies.wire import Chunk, CopyEnd, CopyStart, in_force
from replicator.pipeline.replicas.base import Append, AppliedMark, Define, Replica, Step, TableChange, Truncate
from replicator.pipeline.replicas.postgres import schema
from replicator.pipeline.replicas.quarantine import QuarantineClosing
from replicator.postgres.catalog import exists
from replicator.postgres.errors import REPLICA
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Database
from replicator.postgres.settings import READ_ONLY, WRITER
from replicator.runtime import wiring
from replicator.storage.journal.store import Journal


def look(config: Config) -> RegionContents:
    """The contents of the region. Raises Unavailable or Halted."""
    strand, files = config.region.strand, config.region.files
    damaged: list[str] = []
    half = end = base = applied = mark = None
    # What cannot be read is data, too: it may be replaced if that is asked for, and is set aside then.
    try:
        half = read_half(files)
    except Halted as error:
        damaged.append(str(error))
    try:
        end, base = _ends_of_journal(files.journal, strand)
    except Halted as error:
        damaged.append(str(error))
    try:
        applied, mark = _look_at_replica(config)
    except Halted as error:
        if not isinstance(config.replica, SqliteReplicaSettings):
            raise  # a server's own word, which no copy cures
        damaged.append(str(error))
    if files.rewind.exists():
        damaged.append("it was on its way back when it was stopped")
    replica = _not_empty(applied.position if applied else None)
    return RegionContents(half, _not_empty(end), replica, mark, base, "; ".join(damaged))


def _ends_of_journal(path: Path, strand: str) -> tuple[Position | None, Position | None]:
    if not path.exists():
        return None, None
    journal = Journal(path, traceless=True)
    try:
        return journal.head(strand), journal.base(strand)
    finally:
        journal.close()


def _look_at_replica(config: Config) -> tuple[AppliedMark | None, AppliedMark | None]:
    try:
        with contextlib.closing(wiring.reader(config, dict)()) as reader:
            return reader.applied(config.region.strand), reader.applied(HALF_COPY)
    except Unavailable as error:
        if error.reason == "replica_missing":
            return None, None
        raise


def _not_empty(position: Position | None) -> Position | None:
    return position if position is not None and position.sequence else None


def old_files(config: Config) -> list[Path]:
    """The files that would be set aside."""
    files = former_files(config.region.files)
    if isinstance(config.replica, SqliteReplicaSettings) and config.replica.path.exists():
        files.append(config.replica.path)
    return files


def old_tables(config: Config) -> list[str]:
    """The tables that would be emptied: a file is set aside whole instead."""
    if isinstance(config.replica, SqliteReplicaSettings):
        return []
    with contextlib.closing(wiring.reader(config, dict)()) as reader:
        return [definition.label for definition in reader.tables()]


def strangers(config: Config, begun: CopyStart) -> list[Definition]:
    """The tables of the copy that are here with rows, and that are not known as this ledger's."""
    if not isinstance(config.replica, PostgresReplicaSettings):
        return []
    found = []
    with Database(config.replica.conninfo(), REPLICA).session(READ_ONLY) as connection:
        known = schema.current_definitions(connection) if exists(connection, "replicator.definition") else {}
        for name, (_, definition) in sorted(in_force(begun.definitions).items()):
            if name not in known and exists(connection, quoted(*name)):
                row = connection.execute(f"SELECT FROM {quoted(*name)} LIMIT 1".encode()).fetchone()
                found += [definition] if row is not None else []
    return found


def empty(config: Config, tables: Sequence[Definition]) -> None:
    """Empty these tables, which are nobody's of ours."""
    assert isinstance(config.replica, PostgresReplicaSettings)
    names = ", ".join(quoted(*definition.name) for definition in tables)
    with Database(config.replica.conninfo(), REPLICA).session(WRITER) as connection:
        connection.execute(f"TRUNCATE {names}".encode())


class CopyTarget:
    """The replica while it is filled. ``chunks`` and ``rows`` are what is committed. After an error, ``open`` again."""

    def __init__(self, replica: Replica, begun: CopyStart) -> None:
        self._replica = replica
        self._begun = begun
        self._strand = begun.position.strand
        tables = in_force(begun.definitions).values()
        self._tables: dict[int, Definition] = {relation: definition.in_text() for relation, definition in tables}
        self.chunks = self.rows = 0

    def open(self) -> None:
        """Connect, and find how far it is."""
        self._replica.open()
        mark = self._replica.applied(HALF_COPY)
        self.chunks, self.rows = (mark.position.sequence, mark.blocks) if mark else (0, 0)

    def close(self) -> None:
        """Let go of the database."""
        self._replica.close()

    def begin(self) -> None:
        """Empty what is there of this ledger and make the copy's tables, in one transaction with the mark."""
        known = self._replica.definitions(self._strand)
        # By name: a table that was made anew has had several relations, and is emptied once.
        self._replica.begin()
        steps: list[Step] = [Truncate(table) for table in {table.name: table for table in known.values()}.values()]
        for relation, packed in self._begun.definitions:
            definition = unpack_definition(packed)
            if known.get(relation) != definition or not definition.key:  # places may have gone with a primary's table
                steps.append(Define(relation, definition))
        self._replica.apply(self._strand, steps)
        self._replica.forget(self._strand)
        aside = self._replica.quarantine()
        void = QuarantineClosing("truncated", time.time_ns() // 1000, "bootstrap", "the region is made anew")
        aside.close(self._strand, [statement.place for statement in aside.open(self._strand)], void)
        self._commit(0, 0)

    def add(self, chunk: Chunk) -> None:
        """One chunk, in one transaction with the mark."""
        if chunk.number != self.chunks + 1:
            raise Corrupt("bad_copy", f"chunk {chunk.number} came behind {self.chunks}", place="copy")
        table = self._tables.get(chunk.relation)
        if table is None or (chunk.places is None) != bool(table.key):
            raise Corrupt("bad_copy", f"chunk {chunk.number} is of no table that was announced", place="copy")
        step: Step = TableChange(table, (), (), (), chunk.rows, ())
        if chunk.places is not None:
            step = Append(table, chunk.rows, chunk.places)
        self._replica.begin()
        self._replica.apply(self._strand, [step])
        self._commit(chunk.number, self.rows + len(chunk.rows))

    def finish(self, last: CopyEnd) -> None:
        """The copy is whole: its position beside the mark. The blocks up to it count as applied."""
        if last.rows != self.rows:
            raise Corrupt("bad_copy", f"{self.rows:,} rows came, there are {last.rows:,}", place="copy")
        position = self._begun.position
        self._replica.begin()
        # Sequences come last: they are at the copy's position or further, and only ever move forward.
        self._replica.apply(self._strand, last.sequences)
        self._replica.commit(AppliedMark(position, self._begun.committed_at, position.sequence))

    def clear(self) -> None:
        """The journal begins at the copy: the mark has done its work."""
        position = self._begun.position
        self._replica.begin()
        self._replica.forget(HALF_COPY)
        self._replica.commit(AppliedMark(position, self._begun.committed_at, position.sequence))

    def _commit(self, chunks: int, rows: int) -> None:
        self._replica.commit(mark_of(self._begun, chunks, rows))
        self.chunks, self.rows = chunks, rows


def begin_journal(config: Config, begun: CopyStart) -> None:
    """The journal begins behind the copy's position."""
    journal = Journal(config.region.files.journal)
    journal.open()
    try:
        if journal.base(begun.position.strand) != begun.position:
            journal.begin_at(begun.position, dict(begun.definitions), begun.high_at)
        if journal.base(begun.position.strand) != begun.position:
            raise Halted("journal_not_empty", "it begins elsewhere", place=str(config.region.files.journal))
    finally:
        journal.close()
