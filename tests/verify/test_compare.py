"""Comparison: equal exactly if both sides hold the same rows, each as often; only what differs is read."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from replicator.verify.compare import TableResult, compare_sides
from replicator.verify.side import TableHead
from tests.verify.sides import ListedSide, Row

KEYED = TableHead("t", ["id", "v"], ["id"])
MANY: list[Row] = [[str(n), "x"] for n in range(1_000)]
KEYLESS = TableHead("log", ["a", "b"], [])


async def compared(head: TableHead, primary: list[Row], replica: list[Row]) -> TableResult:
    (result,) = await compare_sides(
        ListedSide("primary", [(head, primary)]), ListedSide("tokyo", [(head, replica)]), 100
    )
    return result


async def test_each_kind_of_difference_is_named() -> None:
    result = await compared(
        KEYED, [["1", "a"], ["2", "b"], ["4", None]], [["1", "a"], ["2", "B"], ["3", "c"], ["4", ""]]
    )
    assert not result.is_equal
    assert (result.primary_rows, result.replica_rows, result.different) == (3, 4, 3)
    assert [(d.key, d.primary, d.replica) for d in result.differences] == [
        ({"id": "2"}, {"id": "2", "v": "b"}, {"id": "2", "v": "B"}),
        ({"id": "3"}, None, {"id": "3", "v": "c"}),
        ({"id": "4"}, {"id": "4", "v": None}, {"id": "4", "v": ""}),
    ]


async def test_rows_are_read_only_where_digests_differ() -> None:
    rows: list[Row] = [[str(n), "x"] for n in range(10_000)]
    primary = ListedSide("primary", [(KEYED, rows)])
    replica = ListedSide("tokyo", [(KEYED, [*rows[:5_000], ["5000", "y"], *rows[5_001:]])])
    (result,) = await compare_sides(primary, replica, 10)
    assert [d.key for d in result.differences] == [{"id": "5000"}]
    assert primary.rows_read < 30
    assert result.primary_digest != result.replica_digest


async def test_no_more_is_listed_than_asked_but_all_is_counted() -> None:
    primary, replica = (ListedSide(name, [(KEYED, rows)]) for name, rows in (("p", MANY), ("r", [])))
    (result,) = await compare_sides(primary, replica, 7, rows_at_once=50)
    assert (result.different, len(result.differences)) == (1_000, 7)


async def test_a_missing_table_or_column_is_a_difference() -> None:
    primary = ListedSide("primary", [(KEYED, [["1", "a"]]), (KEYLESS, [])])
    replica = ListedSide("tokyo", [(TableHead("log", ["a"], []), []), (TableHead("more", ["a"], []), [["1"]])])
    results = {result.table: result for result in await compare_sides(primary, replica, 10)}
    assert "replica has no such table" in results["t"].problem
    assert "primary has no such table" in results["more"].problem
    assert "b" in results["log"].problem
    assert not any(result.is_equal for result in results.values())


row = st.tuples(st.sampled_from("abc"), st.sampled_from(["x", None])).map(list)


@given(st.lists(row, max_size=12), st.lists(row, max_size=12))
def test_rows_without_a_key_are_equal_exactly_as_multisets(primary: list[Row], replica: list[Row]) -> None:
    result = trio.run(compared, KEYLESS, primary, replica)
    assert result.is_equal == (sorted(map(repr, primary)) == sorted(map(repr, replica)))
