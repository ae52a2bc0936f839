"""A key's past from blocks of any source: patches completed, moves, deletes, definitions that change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replicator.format.block import HAS_DEFINITIONS, Draft
from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, Cell, pack_row
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from replicator.ledger.key_past import KeyPast
from replicator.storage.journal.history import HistoryIndex
from tests.ledger.region import new_journal

NOTES = Definition("public", "notes", tuple(Column(name, "text") for name in ("id", "text", "n")), ("id",))
WIDER = Definition("public", "notes", (*NOTES.columns, Column("more", "json")), ("id",))


def row(*cells: str | Cell) -> bytes:
    return pack_row([cell.encode() if isinstance(cell, str) else cell for cell in cells])


def past(directory: Path, statements: Sequence[bytes], key: str) -> KeyPast:
    journal = new_journal(directory)
    drafts = [Draft("t", "", 1, 0, 1, statement) for statement in statements]
    define = Draft("define", "", 0, HAS_DEFINITIONS, 2, pack_define(1, NOTES) + pack_define(2, WIDER))
    journal.append("main", [define, *drafts], 1)
    index = HistoryIndex(directory / "history.sqlite3", journal)
    index.open()
    while index.indexed("main") < journal.head("main").sequence:
        index.step("main", journal.head("main").sequence)
    return KeyPast(index, "main", "notes", [key])


def test_a_patch_is_completed_from_older_changes(tmp_path: Path) -> None:
    patches = [pack_patch(1, row("a", UNCHANGED, str(number))) for number in range(120)]
    found = past(tmp_path, [pack_insert(1, row("a", "long", "x")), *patches], "a")
    newest = found.versions(None, 1)[0]
    assert (newest.row, newest.unknown) == ({"id": "a", "text": "long", "n": "119"}, [])
    assert [version.row["text"] for version in found.versions(None, 50) if version.row] == ["long"] * 50
    then = found.as_of(12)
    assert then is not None
    assert then.row == {"id": "a", "text": "long", "n": "9"}
    assert found.as_of(1) is None


def test_what_nothing_here_tells_is_named_and_not_guessed(tmp_path: Path) -> None:
    moved = pack_patch(1, row("b", UNCHANGED, "2"), row("a"))
    found = past(tmp_path, [pack_insert(1, row("a", "long", "1")), moved, pack_update(1, row("b", "new", "3"))], "b")
    newest, oldest = found.versions(None, 10)
    assert (newest.row, newest.unknown) == ({"id": "b", "text": "new", "n": "3"}, [])
    assert (oldest.row, oldest.unknown) == ({"id": "b", "n": "2"}, ["text"])


def test_a_row_does_not_inherit_from_one_that_was_deleted(tmp_path: Path) -> None:
    statements = [
        pack_insert(1, row("a", "old", "1")),
        pack_delete(1, row("a")),
        pack_patch(1, row("a", UNCHANGED, "2"), row("z")),
    ]
    newest, gone, _ = past(tmp_path, statements, "a").versions(None, 10)
    assert newest.unknown == ["text"]
    assert gone.row is None


def test_a_truncate_and_a_move_away_end_a_row(tmp_path: Path) -> None:
    statements = [
        pack_insert(1, row("a", "x", "1")),
        pack_truncate(1),
        pack_insert(1, row("a", "y", "2")),
        pack_update(1, row("b", "y", "2"), row("a")),
    ]
    found = past(tmp_path, statements, "a")
    assert [version.entry.op.name for version in found.versions(None, 10)] == ["DELETE", "INSERT", "TRUNCATE", "INSERT"]
    for sequence, expected in ((2, "x"), (3, None), (4, "y"), (5, None)):
        version = found.as_of(sequence)
        assert version is not None
        assert (version.row or {}).get("text") == expected


def test_a_row_of_another_definition_is_read_by_its_own(tmp_path: Path) -> None:
    statements = [pack_insert(1, row("a", "long", None)), pack_patch(2, row("a", UNCHANGED, "2", '{"x": [1.50]}'))]
    newest, oldest = past(tmp_path, statements, "a").versions(None, 10)
    assert newest.row is not None
    assert str(newest.row) == "{'id': 'a', 'text': 'long', 'n': '2', 'more': {'x': [Decimal('1.50')]}}"
    assert oldest.row == {"id": "a", "text": "long", "n": None}
