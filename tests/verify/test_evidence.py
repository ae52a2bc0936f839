"""What the journal says of a key, and what follows from it."""

from __future__ import annotations

from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, Cell, pack_row
from replicator.format.statement import Op
from replicator.storage.journal.history import HistoryEntry
from replicator.verify.diagnosis import diagnose
from replicator.verify.evidence import UNKNOWN, BlockRef, Evidence, judge, states_of

TABLE = Definition("public", "t", (Column("id", "text", number=1), Column("v", "text", number=2)), ("id",))


def entry(sequence: int, op: Op, *cells: Cell, definition: Definition = TABLE) -> HistoryEntry:
    row = pack_row(cells) if cells else None
    return HistoryEntry(sequence, 0, 1, f"tx{sequence}", sequence * 1_000, op, definition, row)


def ref(sequence: int) -> BlockRef:
    return BlockRef(sequence, f"tx{sequence}", sequence * 1_000)


PAST = [entry(9, Op.UPDATE, b"1", b"c"), entry(6, Op.UPDATE, b"1", b"b"), entry(4, Op.INSERT, b"1", b"a")]


def test_a_lost_write_names_the_first_block_that_is_missing() -> None:
    evidence = judge(PAST, TABLE, [b"1\tc", b"1\ta"])
    assert evidence == Evidence(True, b"1\tc", ref(9), (ref(9), ref(4)), (None, ref(6)))
    found = diagnose({"primary": b"1\tc", "tokyo": b"1\ta"}, evidence)
    assert (found.odd, found.first, found.last) == (("tokyo",), ref(6), ref(9))
    assert "block 6 is missing: the row is as block 4 left it" in found.cause


def test_a_hand_made_row_is_told_from_a_lost_write() -> None:
    found = diagnose({"primary": b"1\tc", "tokyo": b"1\tz"}, judge(PAST, TABLE, [b"1\tc", b"1\tz"]))
    assert (found.odd, found.first) == (("tokyo",), None)
    assert "no block ever wrote this row" in found.cause


def test_the_primary_can_be_the_odd_one() -> None:
    assert diagnose({"primary": b"1\tz", "tokyo": b"1\tc"}, judge(PAST, TABLE, [b"1\tz", b"1\tc"])).odd == ("primary",)
    both = diagnose({"primary": b"1\tz", "tokyo": None}, judge(PAST, TABLE, [b"1\tz", None]))
    assert both.odd == ("primary", "tokyo")


def test_missing_and_added_rows() -> None:
    lost = diagnose({"primary": b"1\ta", "tokyo": None}, judge(PAST[2:], TABLE, [b"1\ta", None]))
    assert (lost.odd, lost.first) == (("tokyo",), ref(4))
    deleted = [entry(8, Op.DELETE), *PAST[1:]]
    undeleted = diagnose({"primary": None, "tokyo": b"1\tb"}, judge(deleted, TABLE, [None, b"1\tb"]))
    assert undeleted.first == ref(8)
    assert "its delete of block 8 is missing" in undeleted.cause
    added = diagnose({"primary": None, "tokyo": b"5\tx"}, judge([], TABLE, [None, b"5\tx"]))
    assert (added.odd, added.last) == (("tokyo",), None)
    assert "no block ever wrote this key" in added.cause


def test_quarantine_is_said() -> None:
    evidence = judge(PAST, TABLE, [b"1\tc", b"1\tb"])
    held = evidence._replace(held=True)
    assert "quarantine" in diagnose({"primary": b"1\tc", "tokyo": b"1\tb"}, held).cause


def test_unchanged_columns_come_from_before_or_stay_unknown() -> None:
    patched = [entry(9, Op.PATCH, b"1", UNCHANGED), entry(6, Op.UPDATE, b"1", b"b")]
    assert states_of(patched, TABLE) == [b"1\tb", b"1\tb"]
    assert states_of(patched[:1], TABLE) == [UNKNOWN]
    assert not judge(patched[:1], TABLE, [b"1\tb"]).known


def test_rows_are_read_by_the_definition_in_force() -> None:
    columns = (Column("id", "text", number=1), Column("w", "text", number=2), Column("n", "int", number=3, missing="7"))
    now = Definition("public", "t", columns, ("id",))
    assert states_of(PAST[1:], now) == [b"1\t7\tb", b"1\t7\ta"]


def test_with_three_regions_the_majority_speaks_where_the_journal_cannot() -> None:
    silent = Evidence(known=False)
    assert diagnose({"a": b"1\tx", "b": b"1\tx", "c": b"1\ty"}, silent).odd == ("c",)
    assert diagnose({"a": b"1\tx", "b": b"1\ty"}, silent).odd == ()
    assert diagnose({"a": b"1\tx", "b": b"1\ty", "c": None}, silent).odd == ()
