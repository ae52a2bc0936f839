"""A key's past: its changes completed, page by page, and its row as of a moment.

Guarantee: what is shown is what the journal holds. A change that left columns unchanged is completed from older changes
of the key; a column whose value is older than everything known of the key is named ``unknown``, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from replicator.format.definition import Definition
from replicator.format.row import UNCHANGED, Cell, unpack_row
from replicator.format.values import json_of, text_of
from replicator.storage.journal.history import HistoryEntry

OLDER_AT_ONCE = 50
OLDER_LIMIT = 10_000  # changes looked at to complete one


class PastIndex(Protocol):
    """Where the past is found: the index over the region's journal. ``entries`` are newest first."""

    def entries(
        self, strand: str, table: str, key: Sequence[str], before: tuple[int, int] | None, limit: int
    ) -> list[HistoryEntry]: ...

    def indexed(self, strand: str) -> int: ...
    def begins_behind(self, strand: str) -> int: ...


class KeyVersion(NamedTuple):
    """A change with its row as JSON values by column; None if the row went. ``unknown`` names columns left out."""

    entry: HistoryEntry
    row: dict[str, Any] | None
    unknown: list[str]


class KeyPast:
    """The past of one key, whose texts are canonical."""

    def __init__(self, history: PastIndex, strand: str, table: str, key: Sequence[str]) -> None:
        self._history = history
        self._strand = strand
        self._table = table
        self._key = key

    def versions(self, before: tuple[int, int] | None, limit: int) -> list[KeyVersion]:
        """The changes before (sequence, ordinal), newest first."""
        entries = self._entries(before, limit)
        return [self._version(entry, entries[number + 1 :]) for number, entry in enumerate(entries)]

    def as_of(self, sequence: int) -> KeyVersion | None:
        """The last change up to and with ``sequence``; None if there was none."""
        versions = self.versions((sequence + 1, 0), 1)
        return versions[0] if versions else None

    def _entries(self, before: tuple[int, int] | None, limit: int) -> list[HistoryEntry]:
        return self._history.entries(self._strand, self._table, self._key, before, limit)

    def _version(self, entry: HistoryEntry, older: Sequence[HistoryEntry]) -> KeyVersion:
        if entry.row is None:
            return KeyVersion(entry, None, [])
        cells = _by_name(entry.definition, unpack_row(entry.row))
        self._complete(cells, entry, older)
        unknown = sorted(name for name, cell in cells.items() if cell is UNCHANGED)
        return KeyVersion(entry, _as_json(entry.definition, cells), unknown)

    def _complete(self, cells: dict[str, Cell], entry: HistoryEntry, older: Sequence[HistoryEntry]) -> None:
        """Fill unchanged columns from older changes: ``older`` at first, then what lies before them."""
        looked_at = 0
        # A large value that is never sent again may be as old as the row: the search for it has to end somewhere.
        while UNCHANGED in cells.values() and looked_at < OLDER_LIMIT:
            if not older:
                older = self._entries((entry.sequence, entry.ordinal), OLDER_AT_ONCE)
            if not older:
                return
            for entry in older:
                looked_at += 1
                if entry.row is None:
                    return  # another row lived under this key before
                before = _by_name(entry.definition, unpack_row(entry.row))
                for name, cell in cells.items():
                    if cell is UNCHANGED and name in before:
                        cells[name] = before[name]
                if UNCHANGED not in cells.values():
                    return
            older = ()


def _by_name(definition: Definition, cells: Sequence[Cell]) -> dict[str, Cell]:
    return {column.name: cell for column, cell in zip(definition.columns, cells, strict=True)}


def _as_json(definition: Definition, cells: dict[str, Cell]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in definition.columns:
        cell = cells[column.name]
        if isinstance(cell, bytes):
            row[column.name] = json_of(column)(text_of(column)(cell))
        elif cell is None:
            row[column.name] = None
    return row
