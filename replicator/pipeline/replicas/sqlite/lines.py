"""A table's rows as canonical lines, put together by SQLite itself where that gives the same text.

Guarantee: what comes out is what the file stores, at the moment that the connection sees. Whole numbers and plain text,
most of what ledgers hold, are joined in SQL; every other value goes through ``values.stored_text``, so a value that
this program would never have stored has a text of its own. Memory is bounded by ``CHUNK_ROWS``.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator, Sequence

from replicator.format.canonical import RowLines, escaped
from replicator.format.definition import Column, Definition
from replicator.format.values import FLOAT_KINDS, INTEGER_KINDS, Stored, kind_of, storage_from_text, stored_text
from replicator.pipeline.replicas.base import KeyedLine
from replicator.pipeline.replicas.sqlite.rows import PLACE_COLUMNS, quoted

CHUNK_ROWS = 2000
KEYS_AT_ONCE = 200
# Texts with one of these are escaped in a line: those few go through a function of ours.
_SPECIAL = "'*[\\' || char(8, 9, 10, 11, 12, 13) || ']*'"
_TAB = "char(9)"


class LineReader:
    """Reads tables as lines over one connection; every call within a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._functions: dict[Callable[[Stored], str | None], str] = {}

    def all(self, definition: Definition) -> Iterator[list[KeyedLine]]:
        """Every row, in chunks."""
        lines = RowLines(definition)
        key, rest = self._key_and_rest(lines)
        yield from _chunks(self._connection.execute(f"SELECT {key}, {rest} FROM {quoted(definition.label)}"), lines)

    def of_keys(self, definition: Definition, keys: Sequence[Sequence[str]]) -> list[KeyedLine]:
        """The rows of these keys, each a text for every key column, as far as they are there."""
        lines = RowLines(definition)
        key, rest = self._key_and_rest(lines)
        columns = [definition.columns[place] for place in definition.key_places]
        names = f"({', '.join(map(quoted, definition.key))})"
        rows: list[KeyedLine] = []
        for at in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[at : at + KEYS_AT_ONCE]
            marks = ", ".join([f"({', '.join('?' * len(columns))})"] * len(some))
            parameters = [
                storage_from_text(column, text) for texts in some for column, text in zip(columns, texts, strict=True)
            ]
            sql = f"SELECT {key}, {rest} FROM {quoted(definition.label)} WHERE {names} IN (VALUES {marks})"
            rows += [row for chunk in _chunks(self._connection.execute(sql, parameters), lines) for row in chunk]
        return rows

    def placed(self, definition: Definition, after: int, until: int) -> Iterator[list[KeyedLine]]:
        """The rows of a table without a key that blocks behind ``after``, up to ``until``, have inserted, in chunks;
        the key line is their place, ``sequence ordinal``."""
        _, rest = self._key_and_rest(RowLines(definition))
        places = " || ' ' || ".join(PLACE_COLUMNS)
        cursor = self._connection.execute(
            f"SELECT {places}, {rest} FROM {quoted(definition.label)} WHERE _sequence > ? AND _sequence <= ?",
            (after, until),
        )
        while rows := cursor.fetchmany(CHUNK_ROWS):
            yield [(place.encode(), rest.encode()) for place, rest in rows]

    def _key_and_rest(self, lines: RowLines) -> tuple[str, str]:
        """SQL for the key line and for what follows it."""
        cells = [self._cell(lines.definition.columns[place]) for place in lines.places]
        return _joined(cells[: lines.keys]), _joined(cells[lines.keys :])

    def _cell(self, column: Column) -> str:
        """SQL for a column's text as it stands in a line. What SQL does not give goes through a function of ours."""
        name, kind, function = quoted(column.name), kind_of(column.type), self._function(column)
        if kind in INTEGER_KINDS:
            plain = f"WHEN 'integer' THEN CAST({name} AS TEXT)"
        elif kind == "bool":
            plain = f"WHEN 'integer' THEN CASE {name} WHEN 1 THEN 't' WHEN 0 THEN 'f' ELSE {function}({name}) END"
        elif kind in FLOAT_KINDS or kind == "bytea":
            plain = ""
        else:
            plain = f"WHEN 'text' THEN CASE WHEN {name} GLOB {_SPECIAL} THEN {function}({name}) ELSE {name} END"
        return f"CASE typeof({name}) {plain} WHEN 'null' THEN '\\N' ELSE {function}({name}) END"

    def _function(self, column: Column) -> str:
        """The SQL function that reads a column's values."""
        read = stored_text(column)
        if read not in self._functions:
            # Once for each way of reading: SQLite replaces no function while a statement runs, and whoever gave up a
            # table in its midst may not have let go of it yet.
            self._functions[read] = name = f"line_cell_{len(self._functions)}"
            self._connection.create_function(name, 1, functools.partial(_cell_text, read), deterministic=True)
        return self._functions[read]


def _chunks(cursor: sqlite3.Cursor, lines: RowLines) -> Iterator[list[KeyedLine]]:
    whole = lines.keys == len(lines.names)
    while rows := cursor.fetchmany(CHUNK_ROWS):
        if not lines.keys:
            yield [(line, line) for line in (rest.encode() for _, rest in rows)]
        elif whole:
            yield [(line, line) for line in (key.encode() for key, _ in rows)]
        else:
            yield [((line := key.encode()), line + b"\t" + rest.encode()) for key, rest in rows]


def _joined(cells: Sequence[str]) -> str:
    return f" || {_TAB} || ".join(cells) or "''"


def _cell_text(read: Callable[[Stored], str | None], value: Stored) -> str:
    text = read(value)
    return "\\N" if text is None else escaped(text)
