"""Pruning real files: what is left is whole and says where it begins, also when it was killed at any step."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import Halted, Rejected
from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft
from replicator.format.definition import Column, Definition
from replicator.format.position import Position
from replicator.format.row import pack_row
from replicator.format.statement import pack_define, pack_insert, pack_update
from replicator.storage.journal.history import BEGINNING, HistoryIndex, Place
from replicator.storage.journal.keeper import JournalKeeper
from replicator.storage.journal.pruning import STEP_PAGES, STEP_PARTS, JournalExtent, compact, remove_pages, sweep_parts
from replicator.storage.journal.regions import KnownRegions
from replicator.storage.journal.retention import RetentionPolicy
from replicator.storage.journal.store import Journal
from replicator.storage.journal.walk import walk
from tests.storage.journal.prune_child import prune

STRAND = "main"
WALLETS = Definition("public", "wallets", (Column("id", "text"), Column("note", "text")), ("id",))
LARGE = 12  # this block's body comes in parts
LAST = 40


def change(number: int) -> bytes:
    row = pack_row([b"k%d" % (number % 3), b"v%d" % number])
    return pack_insert(1, row) if number <= 4 else pack_update(1, row)


def draft(number: int) -> Draft:
    if number == 1:
        return Draft("tx1", "o1", 10, HAS_DEFINITIONS, 1, pack_define(1, WALLETS))
    return Draft(f"tx{number}", f"o{number}", number * 10, 0, 1, change(number))


def written(path: Path) -> Journal:
    """Blocks 1 to LAST, a page each; one of them large."""
    journal = Journal(path)
    journal.open()
    for number in range(1, LAST + 1):
        if number == LARGE:
            parts = [BlockPart(1, change(100 + place)) for place in range(2 * STEP_PARTS + 1)]
            large = Draft("large", "o", number * 10, 0, len(parts), None)
            journal.append(STRAND, [*parts, large], 1)
        else:
            journal.append(STRAND, [draft(number)], 1)
    return journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    store = written(tmp_path / "journal.db")
    yield store
    store.close()


def remove_to(journal: Journal, until: int) -> Position:
    while (base := remove_pages(journal, STRAND, until)).sequence < until:
        pass
    return base


def test_the_base_moves_and_the_rest_stays_whole(journal: Journal) -> None:
    at_30 = journal.position_at(STRAND, 30)
    head = journal.head(STRAND)
    assert remove_pages(journal, STRAND, 30).sequence == STEP_PAGES, "a short step"
    assert remove_to(journal, 30) == at_30 == journal.base(STRAND)
    assert journal.position_at(STRAND, 30) == at_30
    assert journal.position_at(STRAND, 29) is None
    assert [block.header.sequence for block in journal.blocks(STRAND, 30, 1 << 20)] == list(range(31, LAST + 1))
    assert journal.head(STRAND) == head
    assert journal.definitions(STRAND) == {1: WALLETS}, "the definitions in force stay"
    walked = walk(journal, STRAND)
    assert (walked.broken, walked.blocks, walked.begins_behind) == (None, LAST - 30, 30)
    journal.append(STRAND, [draft(LAST + 1)], 1)
    again = Journal(journal.path)
    assert (again.base(STRAND), again.head(STRAND).sequence) == (at_30, LAST + 1)
    again.close()


def test_times_before_the_base_are_known_to_be_incomplete(journal: Journal) -> None:
    assert journal.reaches_back(STRAND, 0)
    remove_to(journal, 30)
    assert journal.sequence_before(STRAND, 0) == 30
    assert not journal.reaches_back(STRAND, 300), "block 30 was committed at 300"
    assert journal.reaches_back(STRAND, 301)
    assert journal.sequence_before(STRAND, 350) == 34


def test_a_time_that_only_pruned_blocks_had_gives_the_beginning(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.open()
    for number, at in enumerate([100, 500, 450, 600], start=1):
        journal.append(STRAND, [draft(number)._replace(committed_at=at)], 1)
    remove_to(journal, 2)
    assert journal.sequence_before(STRAND, 480) == 2
    assert journal.sequence_before(STRAND, 501) == 3
    assert not journal.reaches_back(STRAND, 480)
    journal.close()


def test_the_last_page_stays(journal: Journal) -> None:
    remove_to(journal, LAST - 1)
    with pytest.raises(Halted, match="last page"):
        remove_pages(journal, STRAND, LAST)
    assert journal.block(STRAND, LAST) is not None


def test_a_large_blocks_parts_are_swept_and_arriving_ones_are_not(journal: Journal) -> None:
    journal.stage(STRAND, [(LAST + 1, 0, BlockPart(1, change(2)))])
    remove_to(journal, LARGE)
    rounds = 0
    while sweep_parts(journal, STRAND):
        rounds += 1
    assert rounds == 3
    assert list(journal.parts(STRAND, LARGE)) == []
    assert len(list(journal.parts(STRAND, LAST + 1))) == 1


def test_the_extent_is_what_the_file_holds(journal: Journal) -> None:
    extent = JournalExtent(journal, STRAND)
    extent.look()
    connection = sqlite3.connect(journal.path)
    (expected,) = connection.execute(
        "SELECT (SELECT sum(length(data)) FROM page) + (SELECT sum(length(data)) FROM part)"
    ).fetchone()
    connection.close()
    assert (extent.bytes, extent.first_sequence, extent.oldest_at) == (expected, 1, 10)
    assert [page.last for page in extent.oldest()] == list(range(1, LAST))
    journal.append(STRAND, [draft(LAST + 1)], 1)
    extent.look()
    assert extent.bytes > expected


def test_room_is_used_again_and_compact_gives_it_back(tmp_path: Path) -> None:
    store = Journal(tmp_path / "journal.db")
    store.open()
    for number in range(1, 41):
        store.append(STRAND, [Draft(f"t{number}", "", number, 0, 1, pack_update(1, pack_row([b"x" * 50_000])))], 1)
    remove_to(store, 35)
    store.close()
    before, after = compact(store.path)
    assert after < before / 2
    store.open()
    assert walk(store, STRAND).broken is None
    store.close()


def test_history_says_where_it_begins(journal: Journal, tmp_path: Path) -> None:
    index = HistoryIndex(tmp_path / "history.db", journal)
    index.open()
    while index.step(STRAND, LAST) < LAST:
        pass
    assert min(entry.sequence for entry in index.entries(STRAND, "wallets", ["k0"], None, 100)) == 3
    remove_to(journal, 30)
    assert [entry.sequence for entry in index.entries(STRAND, "wallets", ["k0"], None, 100)] == [39, 36, 33]
    assert index.begins_behind(STRAND) == 30
    assert all_places(index) == list(range(2, LAST + 1))
    place: Place | None = BEGINNING
    index.sweep(STRAND, BEGINNING, rows=3)
    while place is not None:
        place = index.sweep(STRAND, place, rows=3)
    assert all_places(index) == list(range(31, LAST + 1)), "what names pruned blocks is removed, and nothing else"
    assert [entry.sequence for entry in index.entries(STRAND, "wallets", ["k0"], None, 100)] == [39, 36, 33]
    index.begin_anew()
    assert index.indexed(STRAND) == 30, "a new index begins where the journal does"
    index.close()


def all_places(index: HistoryIndex) -> list[int]:
    """The sequences of all blocks that the index names."""
    connection = sqlite3.connect(index.path)
    found = {row[0] for row in connection.execute("SELECT sequence FROM change")}
    connection.close()
    return sorted(found)


@pytest.mark.parametrize("kept", [False, True])
def test_keeper_prunes_up_to_what_is_needed(journal: Journal, kept: bool) -> None:
    regions = KnownRegions(journal, STRAND)
    regions.report("lima", 20, 1)
    keeper = JournalKeeper(journal, STRAND, RetentionPolicy(keep_bytes=0, budget_bytes=None if kept else 0), regions)
    keeper.needs("its own replica", lambda: 33)
    while keeper.step():
        pass
    now = keeper.report
    assert now is not None
    assert now.held_by is not None
    if kept:
        assert (journal.base(STRAND).sequence, now.held_by.who, now.lost, now.forced_blocks) == (20, "lima", (), 0)
    else:
        assert (journal.base(STRAND).sequence, now.held_by.who) == (33, "its own replica")
        assert (now.lost, now.forced_blocks) == (("lima",), 13)
    assert list(journal.parts(STRAND, LARGE)) == []
    extent = JournalExtent(journal, STRAND)
    extent.look()
    assert now.bytes == extent.bytes, "counted down as it was removed"


CELLS = [
    f"{step}/{occurrence}"
    for step, occurrences in {
        "before pages": (1, 2),
        "within pages": (1, 2),
        "deleted pages": (1, 2),
        "after pages": (1, 2),
        "before parts": (1, 2),
        "within parts": (1, 3),
        "after parts": (1, 3),
    }.items()
    for occurrence in occurrences
]


def test_killed_at_any_step_it_is_whole_and_goes_on(tmp_path: Path) -> None:
    written(tmp_path / "journal.db").close()
    homes = [tmp_path / cell.replace(" ", "-").replace("/", "-") for cell in CELLS]
    for home in homes:
        home.mkdir()
        shutil.copy(tmp_path / "journal.db", home)
    command = [sys.executable, "-m", "tests.storage.journal.prune_child", str(tmp_path), "30", *CELLS]
    ended = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert ended == [str(-signal.SIGKILL)] * len(CELLS), "every step was reached"
    for cell, home in zip(CELLS, homes, strict=True):
        journal = Journal(home / "journal.db")
        journal.open()
        base = journal.base(STRAND).sequence
        walked = walk(journal, STRAND)
        assert (walked.broken, walked.blocks) == (None, LAST - base), cell
        assert journal.position_at(STRAND, base) is not None, cell
        journal.close()
        prune(journal.path, 30)
        journal.open()
        assert (journal.base(STRAND).sequence, list(journal.parts(STRAND, LARGE))) == (30, []), cell
        assert walk(journal, STRAND).broken is None, cell
        journal.close()


# -- known regions


def test_a_region_is_known_until_it_is_forgotten(journal: Journal) -> None:
    regions = KnownRegions(journal, STRAND)
    regions.report("lima", 5, 100)
    regions.report("", 1, 100)
    regions.report("no name at all", 1, 100)
    assert [(r.name, r.sequence) for r in KnownRegions(journal, STRAND).all()] == [("lima", 5)]
    regions.report("lima", 9, 200)
    assert KnownRegions(journal, STRAND).all()[0].sequence == 5, "progress is written down later"
    regions.save()
    assert KnownRegions(journal, STRAND).all()[0].sequence == 9
    regions.report("lima", 7, 300)
    assert KnownRegions(journal, STRAND).all()[0].sequence == 7, "back is written down at once"
    regions.forget("lima", "ann: closed")
    assert KnownRegions(journal, STRAND).all()[0].forgotten == "ann: closed"
    with pytest.raises(Rejected, match="no region"):
        regions.forget("lima", "again")
    regions.report("lima", 12, 400)
    assert KnownRegions(journal, STRAND).all()[0].forgotten is None


def test_regions_are_bounded(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.storage.journal.regions.REGIONS_LIMIT", 2)
    regions = KnownRegions(journal, STRAND)
    regions.report("a", 1, 1)
    regions.report("b", 1, 1)
    with pytest.raises(Rejected, match="2 are known"):
        regions.report("c", 1, 1)
    regions.report("a", 2, 2)


class Shrinking(Journal):
    """A journal that another process prunes right behind the first look at it."""

    def base(self, strand: str) -> Position:
        found = super().base(strand)
        if found.sequence == 0:
            other = Journal(self.path)
            other.open()
            remove_to(other, 20)
            other.close()
        return found


def test_a_walk_beside_pruning_calls_nothing_broken(journal: Journal) -> None:
    shrinking = Shrinking(journal.path)
    walked = walk(shrinking, STRAND)
    shrinking.close()
    assert (walked.broken, walked.begins_behind, walked.blocks) == (None, 20, LAST - 20)
