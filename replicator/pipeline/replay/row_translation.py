"""Statements of an older definition of a table, as statements of the one in force.

Guarantee: a row that is translated is the row that it would be had it been in the table when the definition changed:
dropped columns are gone, renamed ones renamed, added ones have what older rows read as, and every kept value has the
canonical text that it had. Raises Halted where replicas could not have followed (``evolution.changes``), ValueError (or
what ``format/values.py`` raises) at an image that cannot be read. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replicator.format.definition import Column, Definition
from replicator.format.evolution import changes
from replicator.format.row import UNCHANGED, Cell, pack_row, unpack_row
from replicator.format.statement import DELETE, INSERT, TRUNCATE
from replicator.format.values import text_of


class RowTranslation:
    """Translates from one definition of a table to a later one; ``definition`` is what the results are read by."""

    def __init__(self, old: Definition, new: Definition) -> None:
        changed = changes(old, new)
        before = {after: name for name, after in changed.renamed}
        added = {column.name for column in changed.added}
        self._old = old
        self._sources = [None if c.name in added else _place(old, before.get(c.name, c.name)) for c in new.columns]
        self._missing = [None if c.missing is None else c.missing.encode() for c in new.columns]
        self.definition = new.in_text()

    def statement(self, statement: list[Any], relation: int) -> list[Any]:
        """The statement, of a relation that means ``definition``."""
        op = statement[0]
        if op == TRUNCATE:
            return [op, relation]
        if op == DELETE:
            return [op, relation, self._key(statement[2])]
        row = self._row(statement[2])
        if op == INSERT:
            return [op, relation, row]
        return [op, relation, row, None if statement[3] is None else self._key(statement[3])]

    def _row(self, image: bytes) -> bytes:
        cells = _texts(self._old.columns, image)
        return pack_row(
            [
                missing if source is None else cells[source]
                for source, missing in zip(self._sources, self._missing, strict=True)
            ]
        )

    def _key(self, image: bytes) -> bytes:
        return pack_row(_texts([self._old.columns[place] for place in self._old.key_places], image))


def _texts(columns: Sequence[Column], image: bytes) -> list[Cell]:
    return [
        text_of(column)(cell).encode() if isinstance(cell, bytes) else cell
        for column, cell in zip(columns, unpack_row(image), strict=True)
    ]


def _place(definition: Definition, name: str) -> int:
    return next(place for place, column in enumerate(definition.columns) if column.name == name)


def shown(definition: Definition, image: bytes) -> dict[str, str | None]:
    """A row for people: canonical texts by column; columns that are unchanged are left out."""
    texts = zip(definition.columns, _texts(definition.columns, image), strict=True)
    return {
        column.name: cell.decode() if isinstance(cell, bytes) else None
        for column, cell in texts
        if cell is not UNCHANGED
    }
