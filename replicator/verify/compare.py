"""Comparing two regions' contents, completely.

Guarantee: equal is said only if both sides have the same tables, the same columns, and in each table the same rows,
each as often, in canonical text. Rows come in any order and number: they are sorted on disk, so memory does not grow.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgpack

from replicator.verify.stream import Row, TableHead

PRIMARY, REPLICA = "primary", "replica"


class Difference(NamedTuple):
    """A key whose rows differ; None where a side has no such row. ``key`` and rows by column name."""

    table: str
    key: dict[str, str | None]
    primary: dict[str, str | None] | None
    replica: dict[str, str | None] | None


class TableResult(NamedTuple):
    """One table: how many rows each side has, how many keys differ, and the first of them. ``problem`` says what keeps
    the table from being compared by rows: it is missing on one side, or has other columns there."""

    table: str
    primary_rows: int
    replica_rows: int
    different: int
    differences: list[Difference]
    problem: str = ""

    @property
    def is_equal(self) -> bool:
        """Nothing differs."""
        return not self.different and not self.problem


class Contents:
    """Both sides' rows, in a temporary file."""

    def __init__(self, directory: Path) -> None:
        self._db = sqlite3.connect(directory / "contents.sqlite3", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE row (side TEXT, label TEXT, key BLOB, data BLOB)")
        self._heads: dict[tuple[str, str], TableHead] = {}

    @classmethod
    @contextlib.contextmanager
    def temporary(cls) -> Iterator[Contents]:
        """Contents whose file goes with the block."""
        with tempfile.TemporaryDirectory(prefix="replicator-verify-") as name:
            contents = cls(Path(name))
            yield contents
            contents._db.close()

    def add_table(self, side: str, head: TableHead) -> None:
        """A side has this table."""
        self._heads[side, head.label] = head

    def add_rows(self, side: str, label: str, rows: Sequence[Row]) -> None:
        """Rows of a table that was added. Columns are put in the order of their names, which both sides share."""
        head = self._heads[side, label]
        order = sorted(range(len(head.columns)), key=head.columns.__getitem__)
        key_places = [head.columns.index(name) for name in head.key]
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO row VALUES (?, ?, ?, ?)",
            (
                (side, label, msgpack.packb([row[p] for p in key_places]), msgpack.packb([row[p] for p in order]))
                for row in rows
            ),
        )
        self._db.execute("COMMIT")

    def results(self, limit: int) -> Iterator[TableResult]:
        """Each table's result, with at most ``limit`` differences listed in it."""
        for label in sorted({label for _, label in self._heads}):
            yield self._result(label, limit)

    def _result(self, label: str, limit: int) -> TableResult:
        heads = [self._heads.get((side, label)) for side in (PRIMARY, REPLICA)]
        problem = _problem(*heads)
        if problem:
            return TableResult(label, self._count(PRIMARY, label), self._count(REPLICA, label), 0, [], problem)
        assert heads[0] is not None
        differences: list[Difference] = []
        counts = {PRIMARY: 0, REPLICA: 0}
        different = 0
        for key, mine, theirs in _merge(self._sorted(PRIMARY, label, counts), self._sorted(REPLICA, label, counts)):
            if mine != theirs:
                different += 1
                if len(differences) < limit:
                    differences.append(_difference(heads[0], key, mine, theirs))
        return TableResult(label, counts[PRIMARY], counts[REPLICA], different, differences)

    def _count(self, side: str, label: str) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM row WHERE side = ? AND label = ?", (side, label)).fetchone()
        return int(count)

    def _sorted(self, side: str, label: str, counts: dict[str, int]) -> Iterator[tuple[bytes, bytes]]:
        for row in self._db.execute(
            "SELECT key, data FROM row WHERE side = ? AND label = ? ORDER BY key, data", (side, label)
        ):
            counts[side] += 1
            yield row


def _problem(primary: TableHead | None, replica: TableHead | None) -> str:
    if primary is None:
        return "the primary has no such table"
    if replica is None:
        return "the replica has no such table"
    if sorted(primary.columns) != sorted(replica.columns):
        only = sorted(set(primary.columns) ^ set(replica.columns))
        return f"columns on one side only: {', '.join(only)}"
    if primary.key != replica.key:
        return f"the key is ({', '.join(primary.key)}) on the primary, ({', '.join(replica.key)}) on the replica"
    return ""


def _merge(
    left: Iterator[tuple[bytes, bytes]], right: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Pair two sorted runs of (key, row): same rows together, then rows of one key together."""
    mine, theirs = next(left, None), next(right, None)
    while mine is not None or theirs is not None:
        if theirs is None or (mine is not None and _goes_first(mine, theirs)):
            assert mine is not None
            yield mine[0], mine[1], None
            mine = next(left, None)
        elif mine is None or _goes_first(theirs, mine):
            yield theirs[0], None, theirs[1]
            theirs = next(right, None)
        else:
            yield mine[0], mine[1], theirs[1]
            mine, theirs = next(left, None), next(right, None)


def _goes_first(one: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    """By key; among rows without a key (all keys alike), by the row itself."""
    if one[0] != other[0]:
        return one[0] < other[0]
    return one[0] == _NO_KEY and one[1] < other[1]


_NO_KEY = msgpack.packb([])


def _difference(head: TableHead, key: bytes, primary: bytes | None, replica: bytes | None) -> Difference:
    columns = sorted(head.columns)

    def named(data: bytes | None) -> dict[str, str | None] | None:
        return None if data is None else dict(zip(columns, msgpack.unpackb(data), strict=True))

    return Difference(
        head.label, dict(zip(head.key, msgpack.unpackb(key), strict=True)), named(primary), named(replica)
    )
