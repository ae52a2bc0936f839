"""A replica's tables back at the fork: only what the orphans touched, in one transaction with the position.

Guarantee: readers see the replica where it stood, or at the fork with exactly the rows of the fork, never anything
between; a row given back is the journal's own. Where the journal cannot tell it (it begins later) the transaction is
undone and said so: nothing is guessed. Sequences never go back. Memory is that of some keys, whatever the orphans did.

A key that waits in the quarantine since before the fork keeps its older row: nothing has been applied to it since.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from replicator.cluster.rejoin.orphan_keys import CHUNK_KEYS, OrphanKey, OrphanKeys
from replicator.errors import Halted
from replicator.format.position import Position
from replicator.format.statement import statement_runs
from replicator.pipeline.replicas.base import AppliedMark, Replica
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal
from replicator.verify.repair.compare_and_set import ComparedKey, compare, write
from replicator.verify.repair.expected_row import ExpectedRow, ExpectedRows, TableVersions
from replicator.verify.repair.images import Place, pack_texts, place_key, unpack_texts
from replicator.verify.repair.touched_keys import TouchedKeys

SCAN_BYTES = 1 << 18


class Tables:
    """The tables of one replica, and what its journal says of them at the fork."""

    def __init__(self, journal: Journal, history: HistoryIndex, replica: Replica, fork: Position) -> None:
        self._journal = journal
        self._history = history
        self._replica = replica
        self._fork = fork
        self._strand = fork.strand
        self._expected = ExpectedRows(journal, history, fork.strand)
        self._waiting: dict[str, set[bytes]] = {}

    def rewind(self, touches: OrphanKeys, last: Position) -> None:
        """Bring the tables to the fork, unless they are not beyond it. ``last`` is the last orphan. Raises Halted."""
        applied = self._replica.applied(self._strand)
        if applied is None or applied.position.sequence <= self._fork.sequence:
            return
        here = self._journal.position_at(self._strand, applied.position.sequence)
        if here != applied.position:
            raise _elsewhere(applied.position, last)
        self._expected.reach(self._fork.sequence)
        self._waiting = self._read_waiting()
        self._place(touches)
        self._replica.harden()  # the journal is cut next: a loss of power must not bring the tables back beyond its end
        self._replica.begin()
        try:
            self._undefine()  # first: rows are compared and written in the columns of the fork
            for chunk in touches.in_order():
                write(self._replica, self._strand, [compared for compared in self._compared(chunk) if compared.differs])
            self._replica.quarantine().forget(self._strand, self._fork.sequence)
            undone = applied.position.sequence - self._fork.sequence
            at = AppliedMark(self._fork, self._committed_at(), max(0, applied.blocks - undone))
            self._replica.commit(at)
        except BaseException:
            self._replica.rollback()
            raise

    def check(self, touches: OrphanKeys) -> None:
        """Compare what was touched with the journal. Raises Halted if a row is not as it should be."""
        applied = self._replica.applied(self._strand)
        if applied is None or applied.position.sequence < self._fork.sequence:
            return  # it never came so far
        if applied.position != self._fork:
            raise _elsewhere(applied.position, self._fork)
        self._waiting = self._read_waiting()
        self._place(touches)
        for chunk in touches.in_order():
            wrong = next((compared for compared in self._compared(chunk) if compared.differs), None)
            if wrong is not None:
                raise _wrong(wrong, self._fork)

    def _committed_at(self) -> int:
        block = self._journal.block(self._strand, self._fork.sequence) if self._fork.sequence else None
        return block.header.committed_at if block else self._journal.base_high_at(self._strand) or 0

    # -- definitions

    def _undefine(self) -> None:
        """Take back what the orphans defined, the last first."""
        known = self._journal.packed_definitions(self._strand, self._fork.sequence)
        for relation in sorted(self._replica.definitions(self._strand).keys() - known.keys(), reverse=True):
            self._replica.undefine(self._strand, relation)

    def _tables(self) -> dict[str, TableVersions]:
        known = self._journal.packed_definitions(self._strand, self._fork.sequence)
        stored = self._replica.definitions(self._strand)
        return self._expected.tables({number: definition for number, definition in stored.items() if number in known})

    # -- keys

    def _place(self, touches: OrphanKeys) -> None:
        """Find where each key was touched last before the orphans; of tables that they truncated, of every key that
        there was at the fork."""
        tables = self._tables()
        for label in sorted(touches.truncated & tables.keys()):
            self._check_known(tables[label])
            for chunk in self._keys_at_fork(tables[label]):
                touches.add(chunk)

        def place_of(label: str, key: bytes) -> Place | None:
            table = tables.get(label)
            return None if table is None else self._expected.last_place(table, key, self._fork.sequence)

        touches.place(place_of)

    def _keys_at_fork(self, table: TableVersions) -> Iterator[list[OrphanKey]]:
        if not table.definition.key:
            for places in self._inserted(table):
                yield [OrphanKey(table.label, place_key(place), False) for place in places]
            return
        after = b""
        while keys := self._history.keys(self._strand, table.label, self._fork.sequence, after, CHUNK_KEYS):
            yield [OrphanKey(table.label, key, False) for key in keys]
            after = keys[-1]

    def _check_known(self, table: TableVersions) -> None:
        """Raise Halted unless the journal knows every row that the table had at the fork."""
        base = self._journal.base(self._strand).sequence
        made_here = min(table.relations) not in self._journal.packed_definitions(self._strand, base)
        if base == 0 or made_here or self._expected.last_truncate(table, self._fork.sequence) is not None:
            return
        raise Halted(
            "truncate_not_undoable",
            f"an orphan block truncated the table, and its rows are older than the journal, which begins behind {base}",
            place=f"table {table.label}",
            cure=_CURE,
        )

    def _inserted(self, table: TableVersions) -> Iterator[list[Place]]:
        """The places of rows of a table without a key that were inserted since its last truncate before the fork."""
        truncated = self._expected.last_truncate(table, self._fork.sequence)
        after = truncated[0] - 1 if truncated else self._journal.base(self._strand).sequence
        touched = TouchedKeys(self._journal.definitions(self._strand), frozenset([table.label]))
        parts = functools.partial(self._journal.parts, self._strand)
        while after < self._fork.sequence and (blocks := self._journal.blocks(self._strand, after, SCAN_BYTES)):
            after = blocks[-1].header.sequence
            wanted = [block for block in blocks if block.header.sequence <= self._fork.sequence]
            for sequence, ordinal, statements in statement_runs(wanted, parts):
                touched.add(sequence, statements, ordinal)
                if touched.keys:
                    yield list(touched.keys.values())
                touched.clear()

    def _compared(self, keys: Iterable[tuple[OrphanKey, Place | None]]) -> list[ComparedKey]:
        tables = self._tables()
        expectations = []
        for (label, key, was_absent), place in keys:
            table = tables.get(label)
            if table is None or key in self._waiting.get(label, ()):
                continue  # the orphans made the table, and it went with them; or nothing was applied to the key
            expectations.append((table, key, self._expected_row(table, key, place, was_absent=was_absent)))
        return compare(self._replica, expectations)

    def _expected_row(self, table: TableVersions, key: bytes, place: Place | None, *, was_absent: bool) -> ExpectedRow:
        if place is None and (was_absent or not table.definition.key):
            return ExpectedRow(None, None, None)
        expected = self._expected.right(table, key, place)
        if expected.unknown:
            raise _unknown(table, key, expected)
        return expected

    def _read_waiting(self) -> dict[str, set[bytes]]:
        """Keys of statements that were set aside before the fork and wait still."""
        waiting: dict[str, set[bytes]] = {}
        for statement in self._replica.quarantine().open(self._strand):
            if statement.sequence <= self._fork.sequence:
                keys = {pack_texts(key) for key in (statement.key, statement.key_before) if key is not None}
                waiting.setdefault(statement.label, set()).update(keys)
        return waiting


_CURE = (
    "the orphans are sealed, and nothing was undone: replicator bootstrap CONFIG --replace makes the region anew from"
    " the region in charge"
)


def _unknown(table: TableVersions, key: bytes, expected: ExpectedRow) -> Halted:
    named = ", ".join(str(text)[:80] for text in unpack_texts(key))
    message = f"what stood under the key at the fork is not in the journal: {expected.unknown}"
    return Halted("before_unknown", message, place=f"table {table.label}, key {named}", cure=_CURE)


def _elsewhere(position: Position, wanted: Position) -> Halted:
    return Halted(
        "replica_not_in_journal",
        f"the replica stands at {position}, which is not on the chain that ends at {wanted}",
        place="replica",
        cure=_CURE,
    )


def _wrong(compared: ComparedKey, fork: Position) -> Halted:
    named = ", ".join(str(text)[:80] for text in unpack_texts(compared.key))
    return Halted(
        "rewind_wrong",
        f"the row is not what the journal says at sequence {fork.sequence}, where the tables were taken back to",
        place=f"table {compared.table.label}, key {named}",
        cure="find out who else writes to the replica; then start the sidecar again: it goes on with going back",
    )
