"""What a replica is: the adapter that keeps a region's copy of the ledger in an ordinary database.

Guarantee asked of every replica: ``apply`` and the position of ``commit`` are one transaction of the database. A
replica that is killed at any instant reopens at a position with exactly the rows of that position. Every replica
passes ``tests/contracts``.

A replica writes into its user's database. Tables are created from definitions (the definition's name and columns,
keyed on the user's key, indexed by the user's id); a table of that name that was there before and differs is refused,
never altered. The sidecar's own tables are four, named ``position``, ``definition``, ``sequence`` and ``quarantine``:
in a schema ``replicator`` (PostgreSQL) or prefixed ``_replicator_`` (SQLite). A PostgreSQL database may
have two more: ``adopted`` if it was a primary's, ``identity`` if a user made an identity GENERATED ALWAYS.

A table without a key gets two columns more, ``_sequence`` and ``_ordinal``: the place of the row's insert.

All methods block: a replica lives in one worker thread at a time. They raise Unavailable (connection lost, lock
or disk: the loop reopens and goes on from the stored position) or Halted (what no retry cures).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.pipeline.replicas.quarantine import QuarantineTable


class Define(NamedTuple):
    """From here on ``relation`` means ``definition``. The table is created, or follows as far as it safely can; one
    that has no rows takes any form."""

    relation: int
    definition: Definition


class TableChange(NamedTuple):
    """The net effect of some blocks on a keyed table. No key appears in more than one of the lists, except that a key
    in ``deletes`` may come back in another list. To be done in this order.

    ``deletes`` are key images that go. ``moves`` are (key image before, row with unchanged columns): the row changes
    its key and keeps its unchanged values. ``patches`` are rows with unchanged columns whose key stays. ``inserts`` are
    rows that were not there as far as the source knows, ``updates`` rows that were: a replica that finds it otherwise,
    because somebody else wrote to it, still ends with this row, and counts it in ``drifted_rows``.
    """

    definition: Definition
    deletes: Sequence[bytes]
    moves: Sequence[tuple[bytes, bytes]]
    patches: Sequence[bytes]
    inserts: Sequence[bytes]
    updates: Sequence[bytes]


class Append(NamedTuple):
    """Rows for a table without a key; ``places`` are their (sequence, ordinal)."""

    definition: Definition
    rows: Sequence[bytes]
    places: Sequence[tuple[int, int]]


class Truncate(NamedTuple):
    """All rows of the table go."""

    definition: Definition


class SetSequence(NamedTuple):
    """The sequence has handed out ``value``; a promoted replica goes on after it."""

    namespace: str
    name: str
    value: int
    increment: int


Step = Define | TableChange | Append | Truncate | SetSequence


class AppliedMark(NamedTuple):
    """How far a replica is in a strand. ``blocks`` counts the blocks ever applied; ``committed_at`` (µs) is the last
    one's."""

    position: Position
    committed_at: int
    blocks: int


class Replica(Protocol):
    """The writing side. ``drifted_rows`` counts rows that were found otherwise than the source knows them, because
    somebody else wrote to the replica."""

    drifted_rows: int

    def open(self) -> None:
        """Connect, and create the sidecar's own tables. May be called again after an error; closes what was open."""

    def close(self) -> None:
        """Let go of the database. Never raises."""

    def applied(self, strand: str) -> AppliedMark | None:
        """Where the replica stands; None if this strand was never applied."""

    def definitions(self, strand: str) -> dict[int, Definition]:
        """The definitions that were applied so far, by relation; of a table, the greatest relation is in force."""

    def begin(self) -> None:
        """Start a transaction."""

    def apply(self, strand: str, steps: Sequence[Step]) -> None:
        """Do the steps in order, within the transaction. Halted with the reason ``replica_refused_row``: the database
        does not take a row (a constraint, a trigger, a value); ``replica_row_missing``, ``bad_row``: it cannot be done.
        After an error nothing but ``rollback`` or ``open`` helps."""

    def harden(self) -> None:
        """Before a transaction: what is committed from now on, until ``open``, survives a loss of power at once."""

    def undefine(self, strand: str, relation: int) -> None:
        """Take back the last definition of a table, within the transaction: its columns are those of the definition
        before it; without one the table goes, with its rows. Raises Halted (``define_not_undoable``) if values would
        have to come back that are gone."""

    def attempt(self, strand: str, steps: Sequence[Step]) -> None:
        """As ``apply``; but where that raises Halted, the transaction is as it was before and goes on. What the
        database would only check at the commit is checked here."""

    def divide(self) -> None:
        """Within the transaction, before there is a position: commit what was applied, if the database cannot hold more
        in one transaction, and begin another. What was applied may then be applied again."""

    def commit(self, applied: AppliedMark) -> None:
        """Store the position, then commit. After Unavailable the outcome is what ``applied`` says once reopened."""

    def forget(self, strand: str) -> None:
        """Drop the stored position of a strand, within the transaction."""

    def rollback(self) -> None:
        """Undo everything since ``begin``."""

    def quarantine(self) -> QuarantineTable:
        """The statements that were set aside here, within the transaction if there is one."""

    def stored(self, definition: Definition, keys: Sequence[bytes]) -> list[list[str | None] | None]:
        """What is stored under these key images: the row's canonical texts in the definition's order, or None. Within a
        transaction, rows that are there stay as they are until its end, whoever else may write."""

    def stored_keys(self, definition: Definition, after: bytes | None, limit: int) -> list[bytes]:
        """The key images, as canonical texts, of the rows behind the key ``after``, in key order."""


KeyedLine = tuple[bytes, bytes]  # a row's key line, and its line (``format/canonical.py``)


class Document(NamedTuple):
    """A row for people: ``key`` and ``row`` as JSON values by column name; ``row`` has every column."""

    definition: Definition
    key: dict[str, Any]
    row: dict[str, Any]


class Reader(Protocol):
    """The reading side: one connection, one snapshot at a time; blocking. ``close`` it after use.

    To make copies of a region it has three methods more: ``CopyReader`` in ``pipeline/copies/snapshot_reader.py``.

    Keys come from outside as text, one per key column in key order. Raises Rejected (unknown table, key that is not
    of its type) or Unavailable.
    """

    def applied(self, strand: str) -> AppliedMark | None:
        """The position of what this reader sees."""

    def tables(self) -> list[Definition]:
        """The tables, in the order of their names."""

    def document(self, table: str, key: Sequence[str]) -> Document | None:
        """One row by its key. ``table`` is the definition's label."""

    def of_user(self, table: str, user: str, limit: int, after: Sequence[str] | None) -> list[Document]:
        """A user's rows in a table, in key order, behind the key ``after``. Served by the index on the user's id."""

    def rows(self, table: str) -> Iterator[list[str | None]]:
        """Every row as canonical text by column (see ``format/values.py``), in no order, without ``_sequence`` and
        ``_ordinal``. Memory is bounded."""

    def lines(self, table: str) -> Iterator[list[KeyedLine]]:
        """Every row as its canonical line, in chunks, in no order. Memory is bounded."""

    def lines_of(self, table: str, keys: Sequence[Sequence[str]]) -> list[KeyedLine]:
        """The lines of these keys, as far as there are such rows. Keys are canonical text."""

    def lines_placed(self, table: str, after: int, until: int) -> Iterator[list[KeyedLine]]:
        """The rows that the blocks behind ``after``, up to ``until``, have inserted into a table without a key, of a
        replica. Their key line is their place, ``sequence ordinal``."""

    def flaws(self) -> dict[str, str]:
        """Why tables cannot be compared by their definitions, by label: something of theirs is missing, or of another
        type."""

    def quarantine(self) -> QuarantineTable:
        """The statements that were set aside, as this reader sees them; to read only."""

    def snapshot(self) -> None:
        """Fix what this reader sees to one moment, until ``close``: position and rows then belong together."""

    def release(self) -> None:
        """See the present again: ends what ``snapshot`` fixed, and keeps the connection."""

    def close(self) -> None:
        """Let go of the connection. Never raises."""
