"""Random histories of a keyed table: statements as a source sends them, and the rows that they leave."""

from __future__ import annotations

import random
from typing import Any

from replicator.format.canonical import RowLines
from replicator.format.definition import Column, Definition, pack_definition
from replicator.format.row import UNCHANGED, Cell, pack_row
from replicator.format.statement import DEFINE, DELETE, INSERT, PATCH, TRUNCATE, UPDATE

TABLE = Definition(
    "public",
    "t",
    (Column("v", "text", number=2), Column("id", "integer", number=1), Column("big", "text", number=3)),
    ("id",),
)
KEYS = [str(number).encode() for number in range(6)]

Statement = list[Any]
Rows = dict[bytes, list[Cell]]


def history(draws: random.Random, length: int, truncates: bool = True) -> tuple[list[Statement], Rows]:
    """Statements that are valid one after another, and the rows at their end."""
    rows: Rows = {}
    statements: list[Statement] = [[DEFINE, 1, pack_definition(TABLE)]]
    for _ in range(length):
        statements.append(_step(draws, rows, truncates))
    return statements, rows


def _step(draws: random.Random, rows: Rows, truncates: bool) -> Statement:
    free = [key for key in KEYS if key not in rows]
    if truncates and draws.random() < 0.04:
        rows.clear()
        return [TRUNCATE, 1]
    if not rows or (free and draws.random() < 0.35):
        key = draws.choice(free)
        rows[key] = [_value(draws), key, _value(draws)]
        return [INSERT, 1, pack_row(rows[key])]
    key = draws.choice(sorted(rows))
    if draws.random() < 0.2:
        del rows[key]
        return [DELETE, 1, pack_row([key])]
    after = draws.choice(free) if free and draws.random() < 0.25 else key
    before = pack_row([key]) if after != key else None
    big = rows.pop(key)[2]
    if draws.random() < 0.4:
        rows[after] = [_value(draws), after, big]
        return [PATCH, 1, pack_row([rows[after][0], after, UNCHANGED]), before]
    rows[after] = [_value(draws), after, _value(draws)]
    return [UPDATE, 1, pack_row(rows[after]), before]


def _value(draws: random.Random) -> bytes | None:
    return draws.choice([None, b"", b"x", b"tab\there", str(draws.randrange(100)).encode()])


def lines(rows: Rows) -> dict[bytes, bytes]:
    """The lines of rows, by key line."""
    read = RowLines(TABLE)
    found = [read.line(cells) for cells in rows.values()]
    return {read.key_of(line): line for line in found}
