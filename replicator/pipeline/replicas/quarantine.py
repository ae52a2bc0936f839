"""What was set aside in a replica: the table ``quarantine`` beside the position, the same in every database.

Guarantee: a statement is set aside, and closed, in the transaction in which that takes effect: it is never both applied
and open, nor neither. Rows are never deleted: a closed one says how it ended, when, by whom and why.

A statement is kept as the bytes that its block has (``format/statement.py``), which with ``relation`` say all that a
later replay needs; the other columns are for people. ``QuarantineTable`` blocks, and works in the transaction of
whoever calls. Non-goal: which statements have to wait (``pipeline/replay/blocked_keys.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from replicator.format.definition import table_label

Place = tuple[int, int]  # a statement's (sequence, ordinal)


class QuarantinedStatement(NamedTuple):
    """A statement that was set aside. ``reason`` is the refusal's, or ``held``: it waits behind another one.

    ``key`` and ``key_before`` are canonical texts in key order, None where there is none or it cannot be read. Times
    are µs since 1970. ``outcome`` is empty while it is open; then replayed, dropped or truncated (a later TRUNCATE of
    its table made it void). ``statement`` is empty where a list is read.
    """

    sequence: int
    ordinal: int
    txid: str
    relation: int
    namespace: str
    table: str
    op: str
    key: tuple[str, ...] | None
    key_before: tuple[str, ...] | None
    statement: bytes
    reason: str
    message: str
    set_aside_at: int
    outcome: str = ""
    closed_at: int | None = None
    closed_by: str = ""
    closed_why: str = ""

    @property
    def place(self) -> Place:
        """The statement's (sequence, ordinal)."""
        return (self.sequence, self.ordinal)

    @property
    def name(self) -> tuple[str, str]:
        """The table's (namespace, table), as a definition has it."""
        return (self.namespace, self.table)

    @property
    def label(self) -> str:
        """The table's name for people."""
        return table_label(self.namespace, self.table)


class QuarantineClosing(NamedTuple):
    """How statements ended: the outcome, when (µs), by whom and why."""

    outcome: str
    at: int
    by: str
    why: str


_FIELDS = (
    "sequence, ordinal, txid, relation, namespace, name, op, key, key_before, {statement}, reason, message,"
    " set_aside_at, outcome, closed_at, closed_by, closed_why"
)
_ALL = _FIELDS.format(statement="statement")
_LISTED = _FIELDS.format(statement="NULL")


class QuarantineTable:
    """The table in one replica. ``run`` executes SQL and gives the rows; ``table`` is the table's name in this database
    and ``mark`` its sign for a parameter."""

    def __init__(self, run: Callable[[str, Sequence[Any]], list[Any]], table: str, mark: str) -> None:
        self._run = run
        self._table = table
        self._mark = mark

    def add(self, strand: str, statements: Sequence[QuarantinedStatement]) -> None:
        """Set these aside, within the transaction."""
        marks = ", ".join([self._mark] * (1 + len(QuarantinedStatement._fields)))
        sql = f"INSERT INTO {self._table} (strand, {_ALL}) VALUES ({marks})"
        for statement in statements:
            key, before = _packed(statement.key), _packed(statement.key_before)
            fields = statement._replace(key=key, key_before=before)  # type: ignore[arg-type]
            self._run(sql, (strand, *fields))

    def close(self, strand: str, places: Sequence[Place], closing: QuarantineClosing) -> None:
        """Note how these ended, within the transaction; one that has ended already stays as it is."""
        for place in places:
            self._run(
                self._sql(
                    f"UPDATE {self._table} SET outcome = ?, closed_at = ?, closed_by = ?, closed_why = ?"
                    " WHERE strand = ? AND sequence = ? AND ordinal = ? AND outcome = ''"
                ),
                (*closing, strand, *place),
            )

    def forget(self, strand: str, after: int) -> None:
        """These statements never were: their blocks, behind the sequence ``after``, are undone. Within the
        transaction."""
        self._run(self._sql(f"DELETE FROM {self._table} WHERE strand = ? AND sequence > ?"), (strand, after))

    def open(self, strand: str) -> list[QuarantinedStatement]:
        """The open ones in their order, without their statements."""
        return self._read(f"SELECT {_LISTED} FROM {self._table} WHERE strand = ? AND outcome = '' {_ORDER}", strand)

    def keys(self, strand: str) -> dict[str, set[tuple[str, ...]]]:
        """The keys that wait, by the label of their table, for whoever compares the replica with its primary: of these
        the replica has older rows. A table that is in here without keys has rows set aside that have none."""
        by_table: dict[str, set[tuple[str, ...]]] = {}
        for statement in self.open(strand):
            keys = by_table.setdefault(statement.label, set())
            keys.update(key for key in (statement.key, statement.key_before) if key is not None)
        return by_table

    def closed(self, strand: str, limit: int) -> list[QuarantinedStatement]:
        """The last that were closed, newest first, without their statements."""
        sql = f"SELECT {_LISTED} FROM {self._table} WHERE strand = ? AND outcome <> '' ORDER BY closed_at DESC"
        return self._read(f"{sql}, sequence DESC, ordinal DESC LIMIT {int(limit)}", strand)

    def one(self, strand: str, place: Place) -> QuarantinedStatement | None:
        """The statement of this place, whole; None if it was never set aside."""
        sql = f"SELECT {_ALL} FROM {self._table} WHERE strand = ? AND sequence = ? AND ordinal = ?"
        return next(iter(self._read(sql, strand, *place)), None)

    def _read(self, sql: str, *parameters: Any) -> list[QuarantinedStatement]:
        return [_read(row) for row in self._run(self._sql(sql), parameters)]

    def _sql(self, sql: str) -> str:
        return sql.replace("?", self._mark)


_ORDER = "ORDER BY sequence, ordinal"


def _packed(key: tuple[str, ...] | None) -> str | None:
    return None if key is None else json.dumps(key, ensure_ascii=False)


def _read(row: Sequence[Any]) -> QuarantinedStatement:
    fields = QuarantinedStatement(*row)
    key, before = (None if text is None else tuple(json.loads(text)) for text in row[7:9])
    return fields._replace(key=key, key_before=before, statement=bytes(fields.statement or b""))
