"""Comparison: equal exactly if both sides hold the same rows, each as often."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import Corrupt
from replicator.position import genesis
from replicator.verify.compare import PRIMARY, REPLICA, Contents
from replicator.verify.stream import ContentsReader, Row, Rows, TableHead, pack_contents

KEYED = TableHead("t", ["id", "v"], ["id"])
KEYLESS = TableHead("log", ["a", "b"], [])


@pytest.fixture
def contents() -> Iterator[Contents]:
    with Contents.temporary() as contents:
        yield contents


def fill(contents: Contents, head: TableHead, primary: list[Row], replica: list[Row]) -> None:
    for side, rows in ((PRIMARY, primary), (REPLICA, replica)):
        contents.add_table(side, head)
        contents.add_rows(side, head.label, rows)


def test_the_order_of_rows_and_columns_does_not_matter(contents: Contents) -> None:
    rows: list[Row] = [[str(n), None if n % 3 else "x"] for n in range(100)]
    contents.add_table(PRIMARY, KEYED)
    contents.add_rows(PRIMARY, "t", rows)
    contents.add_table(REPLICA, TableHead("t", ["v", "id"], ["id"]))
    shuffled = [row[::-1] for row in rows]
    random.Random(7).shuffle(shuffled)
    contents.add_rows(REPLICA, "t", shuffled)
    (result,) = contents.results(10)
    assert result.is_equal
    assert (result.primary_rows, result.replica_rows) == (100, 100)


def test_each_kind_of_difference_is_named(contents: Contents) -> None:
    fill(contents, KEYED, [["1", "a"], ["2", "b"], ["4", None]], [["1", "a"], ["2", "B"], ["3", "c"], ["4", ""]])
    (result,) = contents.results(10)
    assert not result.is_equal
    assert [(d.key, d.primary, d.replica) for d in result.differences] == [
        ({"id": "2"}, {"id": "2", "v": "b"}, {"id": "2", "v": "B"}),
        ({"id": "3"}, None, {"id": "3", "v": "c"}),
        ({"id": "4"}, {"id": "4", "v": None}, {"id": "4", "v": ""}),
    ]


def test_a_missing_table_or_column_is_a_difference(contents: Contents) -> None:
    contents.add_table(PRIMARY, KEYED)
    contents.add_table(PRIMARY, KEYLESS)
    contents.add_table(REPLICA, TableHead("log", ["a"], []))
    results = {result.table: result for result in contents.results(10)}
    assert "no such table" in results["t"].problem
    assert "b" in results["log"].problem
    assert not any(result.is_equal for result in results.values())


row = st.tuples(st.sampled_from("abc"), st.sampled_from(["x", None])).map(list)


@given(st.lists(row, max_size=12), st.lists(row, max_size=12))
def test_rows_without_a_key_are_equal_exactly_as_multisets(primary: list[Row], replica: list[Row]) -> None:
    with Contents.temporary() as contents:
        fill(contents, KEYLESS, primary, replica)
        (result,) = contents.results(100)
    assert result.is_equal == (sorted(map(repr, primary)) == sorted(map(repr, replica)))


def test_contents_travel_whole_or_not_at_all() -> None:
    rows: list[Row] = [[str(n), None] for n in range(2500)]
    data = b"".join(pack_contents(genesis("main"), [(KEYED, rows), (KEYLESS, [])]))
    reader = ContentsReader()
    pieces = [piece for n in range(0, len(data), 777) for piece in reader.feed(data[n : n + 777])]
    reader.finish()
    assert pieces[:2] == [genesis("main"), KEYED]
    assert [row for piece in pieces if isinstance(piece, Rows) for row in piece.rows] == rows
    cut = ContentsReader()
    list(cut.feed(data[:-2]))
    with pytest.raises(Corrupt, match="contents_cut_off"):
        cut.finish()
