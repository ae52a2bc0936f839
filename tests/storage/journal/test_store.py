"""The journal: durable, chained, gapless; read by sequence and by time; damage is named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import Corrupt, Halted
from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft, open_block
from replicator.format.definition import Column, Definition
from replicator.format.position import Position, genesis
from replicator.format.statement import pack_define, pack_insert, pack_message
from replicator.storage.journal.pruning import remove_pages
from replicator.storage.journal.store import Journal

STRAND = "main"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    store = Journal(tmp_path / "journal.db")
    store.open()
    yield store
    store.close()


def draft(number: int, at: int | None = None) -> Draft:
    return Draft(
        f"tx{number}", f"0/{number:X}", at if at is not None else number * 10, 0, 1, pack_message("n", b"%d" % number)
    )


def test_an_empty_journal_stands_at_genesis(journal: Journal) -> None:
    assert journal.head(STRAND) == genesis(STRAND)
    assert journal.blocks(STRAND, 0, 1 << 20) == []
    assert journal.sequence_before(STRAND, 0) == 0


def test_blocks_come_back_in_order_and_linked(journal: Journal) -> None:
    written = [*journal.append(STRAND, [draft(n) for n in range(1, 6)], 1), *journal.append(STRAND, [draft(6)], 1)]
    assert journal.blocks(STRAND, 0, 1 << 20) == written
    assert [b.header.sequence for b in journal.blocks(STRAND, 4, 1 << 20)] == [5, 6]
    assert journal.head(STRAND) == written[-1].position
    assert [b.header.previous for b in written[1:]] == [b.hash for b in written[:-1]]


def test_the_head_is_the_same_after_reopening(journal: Journal) -> None:
    journal.append(STRAND, [draft(n) for n in range(1, 4)], 1)
    again = Journal(journal.path)
    again.open()
    assert again.head(STRAND) == journal.head(STRAND)
    again.append(STRAND, [draft(4)], 1)
    assert again.head(STRAND).sequence == 4
    again.close()


def test_strands_do_not_touch_each_other(journal: Journal) -> None:
    journal.append("a", [draft(1), draft(2)], 1)
    journal.append("b", [draft(1)], 1)
    assert (journal.head("a").sequence, journal.head("b").sequence) == (2, 1)
    assert journal.strands() == ["a", "b"]


def test_a_start_time_finds_the_first_block_of_it_although_the_clock_jumped(journal: Journal) -> None:
    for number, at in enumerate([100, 200, 150, 300, 120, 400], start=1):
        journal.append(STRAND, [draft(number, at)], 1)
    assert journal.sequence_before(STRAND, 0) == 0
    assert journal.sequence_before(STRAND, 200) == 1
    assert journal.sequence_before(STRAND, 201) == 3
    assert journal.sequence_before(STRAND, 401) == 6


def test_a_start_time_is_found_by_index(journal: Journal) -> None:
    journal.append(STRAND, [draft(1)], 1)
    plan = sqlite3.connect(journal.path).execute(
        "EXPLAIN QUERY PLAN SELECT data FROM page WHERE strand = ? AND high_at >= ? ORDER BY high_at, last LIMIT 1",
        (STRAND, 5),
    )
    assert [row[3] for row in plan] == ["SEARCH page USING INDEX page_by_time (strand=? AND high_at>?)"]


def test_a_large_block_is_whole_or_not_there(journal: Journal) -> None:
    parts = [BlockPart(1, pack_insert(1, bytes([n]) * 50)) for n in range(5)]
    journal.append(STRAND, parts[:3], 1)
    assert journal.head(STRAND).sequence == 0
    assert journal.blocks(STRAND, 0, 1 << 20) == []
    (block,) = journal.append(STRAND, [*parts[3:], Draft("big", "0/9", 7, 0, 5, None)], 1)
    assert block.body is None
    assert list(journal.parts(STRAND, 1)) == parts
    body = b"".join(part.data for part in parts)
    assert open_block(block.encoded, body).hash == block.hash


def test_the_parts_of_a_transaction_that_stopped_arriving_are_forgotten(journal: Journal) -> None:
    journal.append(STRAND, [draft(1), BlockPart(1, b"\x91\x05")], 1)
    journal.discard_arriving(STRAND)
    assert list(journal.parts(STRAND, 2)) == []
    (block,) = journal.append(STRAND, [draft(2)], 1)
    assert block.header.sequence == 2


def test_another_region_accepts_the_same_chain(journal: Journal, tmp_path: Path) -> None:
    blocks = journal.append(STRAND, [draft(n) for n in range(1, 4)], 1)
    parts = [BlockPart(1, pack_insert(1, b"x" * 9)), BlockPart(1, pack_insert(1, b"y" * 9))]
    (large,) = journal.append(STRAND, [*parts, Draft("big", "0/9", 7, 0, 2, None)], 1)
    other = Journal(tmp_path / "other.db")
    other.open()
    assert other.accept(STRAND, blocks) == blocks[-1].position
    other.stage(STRAND, [(4, number, part) for number, part in enumerate(parts)])
    assert other.accept(STRAND, [large]) == journal.head(STRAND)
    assert list(other.parts(STRAND, 4)) == parts
    other.close()


def test_a_block_that_does_not_link_is_refused_and_nothing_is_stored(journal: Journal, tmp_path: Path) -> None:
    blocks = journal.append(STRAND, [draft(n) for n in range(1, 4)], 1)
    other = Journal(tmp_path / "other.db")
    other.open()
    with pytest.raises(Corrupt, match="sequence 2 was expected"):
        other.accept(STRAND, [blocks[0], blocks[2]])
    other.append(STRAND, [draft(77)], 1)
    with pytest.raises(Corrupt, match="broken_link"):
        other.accept(STRAND, [blocks[1]])
    assert other.head(STRAND).sequence == 1
    other.close()


def test_parts_that_are_not_the_named_body_are_refused_and_dropped(journal: Journal, tmp_path: Path) -> None:
    (large,) = journal.append(STRAND, [BlockPart(1, pack_insert(1, b"x")), Draft("big", "0/9", 7, 0, 1, None)], 1)
    other = Journal(tmp_path / "other.db")
    other.open()
    other.stage(STRAND, [(1, 0, BlockPart(1, pack_insert(1, b"y")))])
    with pytest.raises(Corrupt, match="body_mismatch"):
        other.accept(STRAND, [large])
    assert list(other.parts(STRAND, 1)) == []
    other.close()


def test_definitions_are_kept_with_the_block_that_brought_them(journal: Journal) -> None:
    one = Definition("public", "t", (Column("a", "int4"),), ("a",))
    two = Definition("public", "t", (Column("a", "int4"), Column("b", "text")), ("a",))
    journal.append(STRAND, [Draft("1", "0/1", 1, HAS_DEFINITIONS, 1, pack_define(1, one)), draft(2)], 1)
    journal.append(STRAND, [BlockPart(1, pack_define(2, two)), Draft("3", "0/3", 3, HAS_DEFINITIONS, 1, None)], 1)
    assert journal.definitions(STRAND) == {1: one, 2: two}
    assert journal.definitions(STRAND, at=2) == {1: one}


def test_a_relation_is_not_defined_twice(journal: Journal) -> None:
    one = Definition("public", "t", (Column("a", "int4"),), ("a",))
    other = Definition("public", "t", (Column("a", "int8"),), ("a",))
    journal.append(STRAND, [Draft("1", "0/1", 1, HAS_DEFINITIONS, 1, pack_define(1, one))], 1)
    journal.append(STRAND, [Draft("2", "0/2", 2, HAS_DEFINITIONS, 1, pack_define(1, one))], 1)
    with pytest.raises(Corrupt, match="defined_twice"):
        journal.append(STRAND, [Draft("3", "0/3", 3, HAS_DEFINITIONS, 1, pack_define(1, other))], 1)
    assert journal.head(STRAND).sequence == 2


def test_a_journal_can_begin_behind_a_position_but_only_while_empty(journal: Journal) -> None:
    base = Position(STRAND, 3, 41, b"\x07" * 32)
    journal.begin_at(base, {})
    assert journal.head(STRAND) == base
    (block,) = journal.append(STRAND, [draft(42)], 3)
    assert block.header.sequence == 42
    assert block.header.previous == base.hash
    assert journal.position_at(STRAND, 41) == base
    with pytest.raises(Halted, match="journal_not_empty"):
        journal.begin_at(genesis(STRAND), {})


def test_a_connection_that_is_given_back_sees_what_is_committed_from_then_on(journal: Journal) -> None:
    """Another thread may take it at that very instant."""

    class Idle(list[sqlite3.Connection]):
        def append(self, connection: sqlite3.Connection) -> None:
            super().append(connection)
            committed = journal.append(STRAND, [draft(3)], 1)[0].header.sequence
            ends.append((connection.execute("SELECT max(last) FROM page").fetchone()[0], committed))

    for number in (1, 2):
        journal.append(STRAND, [draft(number)], 1)
    ends: list[tuple[int, int]] = []
    journal._readers = Idle()
    assert len(journal.pages(STRAND, 0, 1)) == 1, "the second page is left unread"
    assert ends == [(3, 3)]


@pytest.mark.parametrize("reopened", [False, True])
def test_what_was_committed_before_the_beginning_counts_although_the_clock_jumped_back(
    journal: Journal, reopened: bool
) -> None:
    journal.begin_at(Position(STRAND, 3, 41, b"\x07" * 32), {}, high_at=1000)
    if reopened:
        journal.close()
        journal.open()
    journal.append(STRAND, [draft(42, 500)], 3)
    assert journal.high_at(STRAND, 42) == 1000, "who bootstraps from here has to know it"
    assert journal.sequence_before(STRAND, 800) == 41
    journal.append(STRAND, [draft(43, 1500)], 3)
    assert journal.sequence_before(STRAND, 1200) == 42
    remove_pages(journal, STRAND, 42)
    assert not journal.reaches_back(STRAND, 800), "block 41 may have been committed at 1000"


def test_a_changed_byte_is_found_when_it_is_read(journal: Journal) -> None:
    journal.append(STRAND, [draft(n) for n in range(1, 4)], 1)
    journal.close()
    with sqlite3.connect(journal.path) as connection:
        (data,) = connection.execute("SELECT data FROM page").fetchone()
        spoiled = data[:-1] + bytes([data[-1] ^ 1])
        connection.execute("UPDATE page SET data = ?", (spoiled,))
    connection.close()
    journal.open()
    with pytest.raises(Corrupt, match="sequence 3"):
        journal.blocks(STRAND, 0, 1 << 20)
