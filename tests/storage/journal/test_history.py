"""The history index: every change of a key is found, newest first, by canonical key, whatever form it was sent in."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft
from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, pack_row
from replicator.format.statement import (
    Op,
    pack_define,
    pack_delete,
    pack_insert,
    pack_message,
    pack_patch,
    pack_truncate,
    pack_update,
)
from replicator.storage.journal.history import HistoryEntry, HistoryIndex
from replicator.storage.journal.store import Journal

STRAND = "main"
TEXT = Definition("public", "t", (Column("id", "int4"), Column("v", "text")), ("id",))
BINARY = Definition("public", "t", (Column("id", "int4", "binary"), Column("v", "text", "binary")), ("id",))
PAIR = Definition("app", "pair", (Column("v", "text"), Column("b", "text"), Column("a", "text")), ("a", "b"))
KEYLESS = Definition("public", "log", (Column("v", "text"),), ())


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    store = Journal(tmp_path / "journal.db")
    store.open()
    definitions = [pack_define(n, d) for n, d in enumerate((TEXT, BINARY, PAIR, KEYLESS), start=1)]
    store.append(STRAND, [Draft("define", "0/1", 1, HAS_DEFINITIONS, 4, b"".join(definitions))], 1)
    yield store
    store.close()


@pytest.fixture
def index(tmp_path: Path, journal: Journal) -> Iterator[HistoryIndex]:
    index = HistoryIndex(tmp_path / "history.db", journal)
    index.open()
    yield index
    index.close()


def write(journal: Journal, *statements: bytes) -> int:
    """One block of these; its sequence."""
    sequence = journal.head(STRAND).sequence + 1
    draft = Draft(f"tx{sequence}", "0/2", sequence * 10, 0, len(statements), b"".join(statements))
    journal.append(STRAND, [draft], 1)
    return sequence


def catch_up(index: HistoryIndex, journal: Journal) -> None:
    head = journal.head(STRAND).sequence
    while index.indexed(STRAND) < head:
        index.step(STRAND, head)


def changes(index: HistoryIndex, table: str, *key: str) -> list[tuple[int, int, Op]]:
    return [(e.sequence, e.ordinal, e.op) for e in index.entries(STRAND, table, key, None, 100)]


def text_row(id_: str, v: bytes | None) -> bytes:
    return pack_row([id_.encode(), v])


def test_all_kinds_of_changes_of_a_key_newest_first(journal: Journal, index: HistoryIndex) -> None:
    write(journal, pack_insert(1, text_row("7", b"a")), pack_insert(1, text_row("8", b"x")))
    write(journal, pack_message("n", b""), pack_update(1, text_row("7", b"b")))
    write(journal, pack_patch(1, pack_row([b"7", UNCHANGED])))
    write(journal, pack_delete(1, pack_row([b"7"])))
    catch_up(index, journal)
    assert changes(index, "t", "7") == [(5, 0, Op.DELETE), (4, 0, Op.PATCH), (3, 1, Op.UPDATE), (2, 0, Op.INSERT)]
    assert changes(index, "t", "8") == [(2, 1, Op.INSERT)]
    assert changes(index, "t", "9") == []
    assert changes(index, "nothing", "7") == []


def test_an_entry_says_what_the_change_was(journal: Journal, index: HistoryIndex) -> None:
    write(journal, pack_insert(1, text_row("7", b"a")))
    catch_up(index, journal)
    assert index.entries(STRAND, "t", ["7"], None, 1) == [
        HistoryEntry(2, 0, 1, "tx2", 20, Op.INSERT, TEXT, text_row("7", b"a"))
    ]


def test_a_key_that_changes_counts_for_both(journal: Journal, index: HistoryIndex) -> None:
    write(journal, pack_insert(1, text_row("7", b"a")))
    write(journal, pack_update(1, text_row("8", b"a"), pack_row([b"7"])))
    catch_up(index, journal)
    assert changes(index, "t", "7") == [(3, 0, Op.DELETE), (2, 0, Op.INSERT)]
    assert changes(index, "t", "8") == [(3, 0, Op.UPDATE)]


def test_a_truncate_counts_for_every_key_of_the_table(journal: Journal, index: HistoryIndex) -> None:
    write(journal, pack_insert(1, text_row("7", b"a")))
    write(journal, pack_truncate(1))
    write(journal, pack_insert(1, text_row("7", b"b")))
    catch_up(index, journal)
    assert changes(index, "t", "7") == [(4, 0, Op.INSERT), (3, 0, Op.TRUNCATE), (2, 0, Op.INSERT)]


def test_the_form_of_a_key_does_not_matter(journal: Journal, index: HistoryIndex) -> None:
    write(journal, pack_insert(1, text_row("-7", b"a")))
    write(journal, pack_update(2, pack_row([struct.pack(">i", -7), b"b"])))
    catch_up(index, journal)
    assert changes(index, "t", "-7") == [(3, 0, Op.UPDATE), (2, 0, Op.INSERT)]


def test_keys_of_several_columns_in_key_order(journal: Journal, index: HistoryIndex) -> None:
    write(journal, pack_insert(3, pack_row([None, b"second", b"first"])))
    catch_up(index, journal)
    assert changes(index, "app.pair", "first", "second") == [(2, 0, Op.INSERT)]
    assert changes(index, "app.pair", "second", "first") == []


def test_rows_without_a_key_are_passed_over(journal: Journal, index: HistoryIndex) -> None:
    write(journal, pack_insert(4, pack_row([b"a"])))
    catch_up(index, journal)
    assert index.indexed(STRAND) == 2


def test_ordinals_go_on_over_the_parts_of_a_large_block(journal: Journal, index: HistoryIndex) -> None:
    parts = [
        BlockPart(2, pack_insert(1, text_row(str(n), b"a")) + pack_insert(1, text_row(str(n + 100), b"b")))
        for n in range(3)
    ]
    journal.append(STRAND, [*parts, Draft("big", "0/3", 30, 0, 6, None)], 1)
    catch_up(index, journal)
    assert changes(index, "t", "2") == [(2, 4, Op.INSERT)]
    (entry,) = index.entries(STRAND, "t", ["102"], None, 1)
    assert (entry.ordinal, entry.row) == (5, text_row("102", b"b"))


def test_pages_join_without_a_seam(journal: Journal, index: HistoryIndex) -> None:
    for n in range(25):
        write(journal, *(pack_update(1, text_row("7", b"%d.%d" % (n, m))) for m in range(3)))
    catch_up(index, journal)
    pages: list[HistoryEntry] = []
    before = None
    while page := index.entries(STRAND, "t", ["7"], before, 7):
        pages += page
        before = (page[-1].sequence, page[-1].ordinal)
    assert [(e.sequence, e.ordinal) for e in pages] == list(itertools.product(range(26, 1, -1), (2, 1, 0)))


def test_a_lost_or_damaged_index_is_built_again(tmp_path: Path, journal: Journal, index: HistoryIndex) -> None:
    write(journal, pack_insert(1, text_row("7", b"a")))
    catch_up(index, journal)
    found = changes(index, "t", "7")
    index.close()
    index.path.write_bytes(b"this is no database" * 1000)
    again = HistoryIndex(index.path, journal)
    again.open()
    catch_up(again, journal)
    assert changes(again, "t", "7") == found
    again.close()


def test_it_stops_where_it_is_told_and_goes_on_from_there(journal: Journal, index: HistoryIndex) -> None:
    for n in range(10):
        write(journal, pack_update(1, text_row("7", b"%d" % n)))
    assert index.step(STRAND, 4) == 4
    assert [sequence for sequence, _, _ in changes(index, "t", "7")] == [4, 3, 2]
    catch_up(index, journal)
    assert len(changes(index, "t", "7")) == 10
