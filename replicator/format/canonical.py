"""The canonical line of a row: the same bytes in every region, whatever the engine, the source or the column order.

Guarantee: two rows of a table have the same line exactly if every column has the same canonical text
(``format/values.py``) or is NULL in both. Nothing that PostgreSQL prints differently is the same here, and nothing more
is told apart.

Format 1: the line that PostgreSQL writes for the row with ``COPY (SELECT …) TO STDOUT``, without its line feed,
encoded as UTF-8: the key's columns in key order, then the other columns in the order of their names (by code point);
between them a tab; NULL is ``\\N``; within a value a backslash is ``\\\\``, and the characters 8 to 13 are ``\\b``,
``\\t``, ``\\n``, ``\\v``, ``\\f`` and ``\\r``. The *key line* is the part of the key's columns; of a table without a
key it is the whole line. So anybody can make the lines of a table with ``psql`` alone. Test vectors:
``tests/vectors/lines.json``.

The values themselves: numbers as PostgreSQL prints them (``numeric`` with its scale: 1.0 is not 1.00), infinities and
``NaN``, times to the microsecond with ``timezone`` UTC and ``datestyle`` ISO, ``bytea`` in hex, arrays and composites
in their text form, ``jsonb`` normalised by PostgreSQL, ``json`` and documents to the letter. A field that is absent
from a document is another document than one with a null. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from replicator.format.definition import Definition
from replicator.format.row import UNCHANGED, Cell
from replicator.format.values import text_of

TAB = b"\t"
NULL = b"\\N"
_ESCAPES = {"\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v", "\f": "\\f", "\r": "\\r"}
_SPECIAL = re.compile(r"[\\\b\t\n\v\f\r]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = {escape[1]: plain for plain, escape in _ESCAPES.items()}


def escaped(text: str) -> str:
    """A value's text as it stands in a line."""
    # Few values have anything to escape, and a search that fails costs less than a substitution of nothing.
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text) if _SPECIAL.search(text) else text


def line_of(texts: Sequence[str | None]) -> bytes:
    """The line of these values, which are in line order."""
    return "\t".join(["\\N" if text is None else escaped(text) for text in texts]).encode()


def texts_of(line: bytes) -> list[str | None]:
    """The values of a line, in line order. Raises ValueError for what is no line."""
    return [None if cell == NULL else _unescaped(cell) for cell in line.split(TAB)]


def _unescaped(cell: bytes) -> str:
    try:
        return _ESCAPED.sub(lambda match: _PLAIN[match[1]], cell.decode())
    except KeyError as error:
        raise ValueError(f"an escape that no line has: {error}") from error


class RowLines:
    """How a definition's rows become lines. ``names`` are its columns in line order, ``places`` where they stand in the
    row, ``keys`` how many of them are the key's."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        names = [column.name for column in definition.columns]
        self.names = [*definition.key, *sorted(set(names) - set(definition.key))]
        self.places = [names.index(name) for name in self.names]
        self.keys = len(definition.key)
        columns = [definition.columns[place] for place in self.places]
        self._readers: list[Callable[[bytes], str]] = [text_of(column) for column in columns]

    def key_of(self, line: bytes) -> bytes:
        """The key line of a line."""
        if self.keys == 1:
            return line.partition(TAB)[0]  # a tab within a value is escaped: what is met is a border
        return TAB.join(line.split(TAB, self.keys)[: self.keys]) if self.keys else line

    def line(self, cells: Sequence[Cell]) -> bytes:
        """The line of a row's cells, none of which is unchanged. Raises ValueError."""
        return line_of(self.texts(cells))

    def texts(self, cells: Sequence[Cell]) -> list[str | None]:
        """The canonical texts of a row's cells, in line order. Raises ValueError."""
        if UNCHANGED in cells or len(cells) != len(self.places):
            raise ValueError("a row with an unchanged column, or of another number of columns")
        return [
            None if (cell := cells[place]) is None else read(cell)  # type: ignore[arg-type]  # not UNCHANGED
            for place, read in zip(self.places, self._readers, strict=True)
        ]

    def named(self, line: bytes) -> dict[str, str | None]:
        """A line's values by the names of the columns. Raises ValueError."""
        return dict(zip(self.names, texts_of(line), strict=True))
