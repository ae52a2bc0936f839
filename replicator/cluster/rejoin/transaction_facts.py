"""What orphan blocks did, read from the journal: each transaction with its rows before and after.

Guarantee: rows are the journal's own; one whose value is older than the journal is named unknown, never guessed.
Memory is bounded: of a transaction with very many or very large rows only the first are shown, and how many are not
(``left_out``, in ``left_tables``); ``blocks.frames`` has them all. A change of a row's key is shown as two: the row
goes from one key, and comes to the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from replicator.cluster.rejoin.fork import Fork
from replicator.cluster.rejoin.orphan_keys import OrphanKeys
from replicator.cluster.rejoin.row_file import KnownRow, Row, RowFile
from replicator.format.block import Block
from replicator.format.definition import unpack_definition
from replicator.format.statement import DEFINE, MESSAGE, SEQUENCE, TRUNCATE, Op
from replicator.ledger.index import read_note, statements_of
from replicator.ledger.presentation import show_time
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal
from replicator.verify.repair.expected_row import ExpectedRow, ExpectedRows, TableVersions, tables_of
from replicator.verify.repair.images import Place, unpack_texts
from replicator.verify.repair.touched_keys import TouchedKeys

READ_BYTES = 1 << 18
STATEMENTS_LIMIT = 10_000  # of a transaction that are shown
ROWS_LIMIT_CHARACTERS = 4_000_000

Fields = dict[str, Any]


class TransactionFacts:
    """Reads the orphans of one fork, while the journal still has them. ``touches`` are theirs. ``close`` it."""

    def __init__(self, journal: Journal, history: HistoryIndex, fork: Fork, touches: OrphanKeys) -> None:
        self._journal = journal
        self._touches = touches
        self._rows = RowFile()  # as they are before the next statement
        self._fork = fork
        self._strand = fork.strand
        self._expected = ExpectedRows(journal, history, fork.strand)
        definitions = journal.definitions(self._strand)
        self._tables = tables_of(definitions)
        self._touched = TouchedKeys(definitions)
        self._labels = {relation: definition.label for relation, definition in definitions.items()}

    def close(self) -> None:
        """Let go of the scratch file."""
        self._rows.close()

    def requests(self) -> set[str]:
        """The ids under which clients asked for them."""
        notes = (
            next((read_note(statement) for statement in statements_of(self._journal, block)), None)
            for block in self._blocks()
        )
        return {note.id for note in notes if note is not None and note.id}

    def transactions(self) -> Iterator[Fields]:
        """Each orphan, in order."""
        self._expected.reach(self._fork.last)
        self._read_fork()
        return map(self._transaction, self._blocks())

    def _read_fork(self) -> None:
        """Read the rows at the fork of all that is touched."""
        sequence = self._fork.position.sequence
        self._touches.place(lambda label, key: self._expected.last_place(self._tables[label], key, sequence))
        for chunk in self._touches.in_order():
            for (label, key, was_absent), place in chunk:
                table = self._tables[label]
                if place is None and (was_absent or not table.definition.key):
                    continue
                expected = self._expected.right(table, key, place)
                self._rows.set(label, key, KnownRow(_named(table, expected), expected.unknown))

    def _blocks(self) -> Iterator[Block]:
        after = self._fork.position.sequence
        while after < self._fork.last:
            for block in self._journal.blocks(self._strand, after, READ_BYTES):
                after = block.header.sequence
                if after > self._fork.last:
                    return
                yield block

    def _transaction(self, block: Block) -> Fields:
        header = block.header
        fields: Fields = {
            "sequence": header.sequence,
            "epoch": header.epoch,
            "transaction": header.txid,
            "committed_at": show_time(header.committed_at),
            "hash": block.hash.hex(),
            "request": None,
            "digest": None,
            "users": [],
            "left_out": 0,
            "left_tables": [],
            "statements": [],
        }
        room = ROWS_LIMIT_CHARACTERS
        left: set[str] = set()
        for ordinal, statement in enumerate(statements_of(self._journal, block)):
            if ordinal == 0 and (note := read_note(statement)) is not None:
                fields["request"], fields["digest"] = note.id or None, note.digest.hex()
                continue
            # Also what will be left out: each statement moves the rows on for those behind it.
            for change in self._statement((header.sequence, ordinal), statement):
                size = sum(
                    len(text or "") for row in (change["before"], change["after"]) for text in (row or {}).values()
                )
                if size > room or len(fields["statements"]) >= STATEMENTS_LIMIT:
                    fields["left_out"] += 1
                    left.update([change["table"]] if change["table"] else [])
                    continue
                room -= size
                fields["statements"].append(change)
        fields["left_tables"] = sorted(left)
        users = {change["user"]: None for change in fields["statements"] if change.get("user") is not None}
        fields["users"] = list(users)[:100]
        return fields

    def _statement(self, place: Place, statement: list[Any]) -> Iterator[Fields]:
        op = statement[0]
        fields: Fields = {
            "ordinal": place[1],
            "op": Op(op).name.lower(),
            "table": None,
            "key": None,
            "user": None,
            "before": None,
            "after": None,
            "unknown": "",
        }
        if op == DEFINE:
            definition = unpack_definition(statement[2])
            self._touched.add(place[0], [statement], place[1])
            yield {**fields, "table": definition.label, "columns": [column.name for column in definition.columns]}
        elif op == TRUNCATE:
            self._rows.empty(self._labels[statement[1]])
            yield {**fields, "table": self._labels[statement[1]]}
        elif op == SEQUENCE:
            yield {**fields, "name": f"{statement[1]}.{statement[2]}", "value": statement[3]}
        elif op == MESSAGE:
            yield {**fields, "name": statement[1]}
        else:
            self._touched.clear()
            self._touched.add(place[0], [statement], place[1])
            for label, key in self._touched.keys:
                yield {**fields, **self._touch(self._tables[label], key, place)}

    def _touch(self, table: TableVersions, key: bytes, place: Place) -> Fields:
        before = self._rows.get(table.label, key) or KnownRow(None, "")
        expected = self._expected.right(table, key, place)
        after = KnownRow(_named(table, expected), expected.unknown)
        self._rows.set(table.label, key, after)
        user = table.definition.user
        rows = [row for row in (after.row, before.row) if row is not None]
        return {
            "table": table.label,
            "key": dict(zip(table.stored.key, unpack_texts(key), strict=True)),
            "keyless": not table.definition.key,
            "documents": table.definition.documents,
            "user": next((row[user] for row in rows if user is not None), None),
            "before": before.row,
            "after": after.row,
            "unknown": "; ".join(filter(None, (before.unknown, after.unknown))),
        }


def _named(table: TableVersions, expected: ExpectedRow) -> Row | None:
    names = [column.name for column in table.stored.columns]
    return None if expected.row is None else dict(zip(names, expected.row, strict=True))
