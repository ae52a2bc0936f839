"""How an orphan stands to the region in charge: pure, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from replicator.cluster.rejoin.conflict_check import (
    CarriedRequest,
    ConflictVerdict,
    WinningBlock,
    WinningRow,
    judge,
    reapply_id,
)

Fields = dict[str, Any]
Row = dict[str, str | None]
BY = WinningBlock(20, "their tx", "2026-01-01T00:00:00Z")


class TouchedRows:
    """What the region in charge has: rows by key, of one table."""

    def __init__(self, **touched: Row | None) -> None:
        self.touched = touched
        self.by = BY
        self.unknown = ""

    def has_table(self, label: str, columns: list[str] | None) -> bool:
        return label != "absent" and (columns is None or columns == ["id", "v"])

    def look(self, label: str, key: Mapping[str, str | None]) -> WinningRow:
        name = key["id"]
        assert name is not None
        return (
            WinningRow(self.by, self.touched[name], self.unknown)
            if name in self.touched
            else WinningRow(None, None, "")
        )


class Marks:
    def __init__(self) -> None:
        self.marks: dict[object, tuple[int, bool]] = {}

    def get(self, label: str, key: Mapping[str, str | None]) -> tuple[int, bool] | None:
        return self.marks.get((label, *key.values()))

    def set(self, label: str, key: Mapping[str, str | None], sequence: int, *, clean: bool) -> None:
        self.marks[label, *key.values()] = (sequence, clean)

    def drop(self, label: str, key: Mapping[str, str | None]) -> None:
        self.marks.pop((label, *key.values()), None)


def row(key: str, value: str | None) -> Row | None:
    return None if value is None else {"id": key, "v": value}


def change(key: str, before: str | None, after: str | None, **more: Any) -> Fields:
    statement = {"op": "update", "table": "t", "key": {"id": key}, "keyless": False, "unknown": ""}
    return {**statement, "before": row(key, before), "after": row(key, after), **more}


def orphan(*statements: Fields, sequence: int = 11, **more: Any) -> Fields:
    fields = {"sequence": sequence, "transaction": f"tx-{sequence}", "hash": "ab" * 32, "request": None, "digest": None}
    return {**fields, "left_out": 0, "left_tables": [], "statements": list(statements), **more}


def judged(
    transaction: Fields, chain: TouchedRows | None = None, marks: Marks | None = None, **more: Any
) -> ConflictVerdict:
    made = more.get("made", {})
    return judge(transaction, chain or TouchedRows(), marks or Marks(), made.get, more.get("reapplied"))


def test_a_row_that_nobody_touched_since_is_as_it_was() -> None:
    assert judged(orphan(change("a", "1", "2"))) == ConflictVerdict("clean", [])


@pytest.mark.parametrize(
    ("there", "verdict"), [("1", "clean"), ("3", "conflict"), (None, "conflict"), ("2", "conflict")]
)
def test_a_row_that_was_touched_since(there: str | None, verdict: str) -> None:
    judgement = judged(orphan(change("a", "1", "2")), TouchedRows(a=row("a", there)))
    assert judgement.verdict == verdict
    assert judgement.why[0]["block"] == BY._asdict()


def test_the_same_row_by_the_same_transaction_is_there_and_by_another_is_not() -> None:
    chain = TouchedRows(a=row("a", "2"))
    transaction = orphan(change("a", "1", "2"), transaction="their tx")
    assert judged(transaction, chain).verdict == "there"
    chain.by = BY._replace(transaction="tx-11")  # a name that the ledger gives by itself proves nothing
    assert judged(orphan(change("a", "1", "2")), chain).verdict == "conflict"
    chain.by = BY._replace(transaction=reapply_id(orphan()))
    assert judged(orphan(change("a", "1", "2")), chain).verdict == "there"


def test_one_row_that_conflicts_makes_the_transaction_one() -> None:
    transaction = orphan(change("a", "1", "2"), change("b", "1", "2"))
    assert judged(transaction, TouchedRows(b=row("b", "9"))).verdict == "conflict"


def test_half_of_it_there_is_a_conflict() -> None:
    transaction = orphan(change("a", "1", "2"), change("b", "1", "2"), transaction="their tx")
    assert judged(transaction, TouchedRows(b=row("b", "2"))).verdict == "conflict"


def test_the_same_request() -> None:
    transaction = orphan(change("a", "1", "2"), request="r", digest="aa")
    same, other = {"r": CarriedRequest(BY, "aa")}, {"r": CarriedRequest(BY, "bb")}
    assert judged(transaction, TouchedRows(a=row("a", "9")), made=same).verdict == "there"
    assert judged(transaction, made=other).verdict == "conflict"
    chain = TouchedRows(a=row("a", "2"))
    chain.by = BY._replace(transaction="r")
    assert judged(transaction, chain, made=other).verdict == "there", "re-applied under its client's key"


def test_what_was_re_applied_is_there() -> None:
    note = {"who": "ann", "at": "now"}
    assert judged(orphan(change("a", "1", "2")), TouchedRows(a=row("a", "9")), reapplied=note).verdict == "there"
    made = {reapply_id(orphan()): CarriedRequest(BY, "")}
    assert judged(orphan(change("a", "1", "2")), TouchedRows(a=row("a", "9")), made=made).verdict == "there"


@pytest.mark.parametrize(
    ("chain", "verdicts"),
    [
        (TouchedRows(), ["clean", "clean", "clean"]),
        (TouchedRows(a=row("a", "9")), ["conflict", "conflict", "clean"]),
        (TouchedRows(b=row("b", "9")), ["clean", "clean", "conflict"]),
    ],
)
def test_orphans_that_build_on_each_other(chain: TouchedRows, verdicts: list[str]) -> None:
    transactions = [
        orphan(change("a", "1", "2"), sequence=11),
        orphan(change("a", "2", "3"), sequence=12),
        orphan(change("b", "1", "2"), sequence=13),
    ]
    marks = Marks()
    judgements = [judged(transaction, chain, marks) for transaction in transactions]
    assert [verdict.verdict for verdict in judgements] == verdicts
    if verdicts[1] != "clean" or verdicts[0] == "clean":
        assert judgements[1].why[0].get("builds_on") == 11


@pytest.mark.parametrize(
    "first",
    [
        orphan({"op": "truncate", "table": "t", "key": None}),
        orphan(change("x", "1", "2"), left_out=3, left_tables=["t"]),
    ],
)
def test_behind_what_touched_any_row_of_the_table_nothing_is_clean(first: Fields) -> None:
    marks = Marks()
    assert judged(first, marks=marks).verdict == "conflict"
    assert judged(orphan(change("a", None, "2"), sequence=12), marks=marks).verdict == "conflict"
    assert judged(orphan(change("a", None, "2", table="u"), sequence=13), marks=marks).verdict == "clean"


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        ({"op": "truncate", "table": "t", "key": None}, "conflict"),
        ({"op": "define", "table": "t", "key": None, "columns": ["id", "v"]}, "there"),
        ({"op": "define", "table": "t", "key": None, "columns": ["id"]}, "conflict"),
        ({"op": "define", "table": "absent", "key": None, "columns": ["id", "v"]}, "conflict"),
        ({"op": "sequence", "table": None, "key": None}, "nothing"),
        ({"op": "message", "table": None, "key": None}, "nothing"),
        (change("a", "1", "2", table="absent"), "conflict"),
        (change("a", "1", "2", unknown="older than the journal"), "conflict"),
        (change("a", None, "2", keyless=True), "clean"),
    ],
)
def test_other_statements(statement: Fields, verdict: str) -> None:
    assert judged(orphan(statement)).verdict == verdict


def test_no_statement_is_nothing() -> None:
    assert judged(orphan()).verdict == "nothing"


def test_what_is_not_known_of_the_region_in_charge_is_a_conflict() -> None:
    chain = TouchedRows(a=row("a", "1"))
    chain.unknown = "the journal begins later"
    assert judged(orphan(change("a", "1", "2")), chain).verdict == "conflict"
