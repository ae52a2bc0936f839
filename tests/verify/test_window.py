"""A window says of every key that its blocks touch what must stand there at its end."""

from __future__ import annotations

import random

import pytest

from replicator.format.canonical import RowLines
from replicator.format.definition import Column, Definition, pack_definition
from replicator.format.row import UNCHANGED, pack_row
from replicator.format.statement import DEFINE, DELETE, INSERT, PATCH, UPDATE
from replicator.verify.window import StatementWindow
from tests.verify.histories import KEYS, TABLE, history, lines

NAMES = RowLines(TABLE).names


@pytest.mark.parametrize("seed", range(300))
def test_touched_keys_are_as_the_history_left_them_and_no_other_changed(seed: int) -> None:
    draws = random.Random(seed)
    length = draws.randrange(60)
    statements, rows = history(draws, length)
    cut = draws.randrange(len(statements) + 1)
    before = replay(seed, cut)
    window = StatementWindow({1: TABLE})
    for sequence, statement in enumerate(statements[cut:], cut + 1):
        window.add(sequence, [statement])
    expected, after = window.expected(TABLE), lines(rows)
    for key, must in expected.items():
        assert must.is_met_by(after.get(key), NAMES), f"seed {seed}, key {key!r}"
        if must.known is None:
            assert must.line == after.get(key), f"seed {seed}, key {key!r}"
        elif (line := after.get(key)) is not None:
            wrong = line + b"!" if must.known["v"] is not None else None  # the line ends with v
            assert not must.is_met_by(wrong, NAMES), f"seed {seed}: what is known must be compared"
    for key in KEYS:
        if key not in expected and not window.is_truncated(TABLE):
            assert before.get(key) == after.get(key), f"seed {seed}: key {key!r} changed and is not among the touched"


def replay(seed: int, count: int) -> dict[bytes, bytes]:
    """The lines after the first ``count`` statements of the seed's history."""
    draws = random.Random(seed)
    draws.randrange(60)
    _, rows = history(draws, max(0, count - 1))
    return lines(rows) if count else {}


def test_a_row_that_is_not_there_after_a_truncate_is_asked_for_by_the_caller() -> None:
    window = StatementWindow({1: TABLE})
    window.add(7, [[INSERT, 1, pack_row([b"a", b"1", b"b"])], [5, 1], [INSERT, 1, pack_row([b"c", b"2", b"d"])]])
    assert window.is_truncated(TABLE)
    assert {key: must.line for key, must in window.expected(TABLE).items()} == {b"2": b"2\td\tc"}


def test_rows_from_before_a_column_are_read_by_the_new_definition() -> None:
    columns = (*TABLE.columns, Column("extra", "text", number=4, missing="7"))
    wider = Definition("public", "t", columns, ("id",))
    window = StatementWindow({1: TABLE})
    window.add(3, [[INSERT, 1, pack_row([b"a", b"1", b"b"])], [INSERT, 1, pack_row([b"a", b"2", b"b"])]])
    window.add(4, [[DEFINE, 2, pack_definition(wider)], [UPDATE, 2, pack_row([b"z", b"2", b"b", b"8"]), None]])
    window.add(5, [[DELETE, 1, pack_row([b"5"])]])
    found = {key: must.line for key, must in window.expected(wider).items()}
    assert found == {b"1": b"1\tb\t7\ta", b"2": b"2\tb\t8\tz", b"5": None}


def test_unchanged_columns_are_open_unless_the_window_sent_them() -> None:
    window = StatementWindow({1: TABLE})
    window.add(1, [[PATCH, 1, pack_row([b"v", b"1", UNCHANGED]), None], [INSERT, 1, pack_row([b"a", b"2", b"B"])]])
    window.add(2, [[PATCH, 1, pack_row([b"w", b"2", UNCHANGED]), None]])
    found = window.expected(TABLE)
    assert found[b"1"].known == {"id": "1", "v": "v"}
    assert found[b"1"].is_met_by(b"1\tanything\tv", NAMES)
    assert not found[b"1"].is_met_by(b"1\tanything\tw", NAMES)
    assert not found[b"1"].is_met_by(None, NAMES)
    assert found[b"2"].line == b"2\tB\tw"


def test_rows_without_a_key_are_known_by_their_place() -> None:
    log = Definition("public", "log", (Column("a", "text"),), ())
    window = StatementWindow({1: log})
    window.add(4, [[INSERT, 1, pack_row([b"x"])], [INSERT, 1, pack_row([b"x"])]])
    assert {key: must.line for key, must in window.expected(log).items()} == {b"4 0": b"x", b"4 1": b"x"}
