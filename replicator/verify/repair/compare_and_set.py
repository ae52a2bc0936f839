"""Comparing keys of a replica with what they should be, and writing those that differ.

Guarantee: what is compared is what the database stores within the transaction that the caller began; what is written is
the right row or nothing, and only where the two differ. A key whose right row is unknown is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from replicator.pipeline.replicas.base import Replica, TableChange
from replicator.verify.repair.expected_row import ExpectedRow, Row, TableVersions
from replicator.verify.repair.images import pack_texts


class ComparedKey(NamedTuple):
    """A key with the row that the replica holds under it (``before``, None: no row) and the one that it should hold
    (``right``)."""

    table: TableVersions
    key: bytes
    before: Row | None
    right: ExpectedRow

    @property
    def differs(self) -> bool:
        """Whether the row is to be written: it is known, and another one than the replica holds."""
        return not self.right.unknown and self.right.row != self.before

    def is_of(self, users: frozenset[str]) -> bool:
        """Whether the row belongs, or should belong, to one of these users."""
        user = self.table.definition.user
        if user is None:
            return False
        place = [column.name for column in self.table.stored.columns].index(user)
        return any(row is not None and row[place] in users for row in (self.before, self.right.row))


def compare(replica: Replica, keys: Iterable[tuple[TableVersions, bytes, ExpectedRow]]) -> list[ComparedKey]:
    """The keys with what is stored under them, in the caller's transaction."""
    compared: list[ComparedKey] = []
    for table, of_table in _by_table(keys).items():
        stored = replica.stored(table.stored, [key for key, _ in of_table])
        for (key, right), before in zip(of_table, stored, strict=True):
            # To PostgreSQL 1.0 and 1.00 are one key: a row that is found under the other's name is the other's.
            is_own = before is not None and table.key_of(before) == key
            compared.append(ComparedKey(table, key, before if is_own else None, right))
    return compared


def _by_table(
    keys: Iterable[tuple[TableVersions, bytes, ExpectedRow]],
) -> dict[TableVersions, list[tuple[bytes, ExpectedRow]]]:
    by_table: dict[TableVersions, list[tuple[bytes, ExpectedRow]]] = {}
    for table, key, right in keys:
        by_table.setdefault(table, []).append((key, right))
    return by_table


def write(replica: Replica, strand: str, differing: Sequence[ComparedKey]) -> None:
    """Write the right rows of keys that differ, within the caller's transaction."""
    by_table: dict[TableVersions, list[ComparedKey]] = {}
    for compared in differing:
        by_table.setdefault(compared.table, []).append(compared)
    replica.apply(strand, [_change(table, of_table) for table, of_table in by_table.items()])


def _change(table: TableVersions, differing: Sequence[ComparedKey]) -> TableChange:
    deletes, inserts, updates = [], [], []
    for key in differing:
        if key.right.row is None:
            deletes.append(key.key)
        elif key.before is None:
            inserts.append(pack_texts(key.right.row))
        else:
            updates.append(pack_texts(key.right.row))
    return TableChange(table.stored, deletes, [], [], inserts, updates)
