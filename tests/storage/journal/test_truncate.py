"""Cutting a journal back: exactly what is sealed goes, with all that stood on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.cluster.rejoin.durable_files import write_file
from replicator.errors import Corrupt
from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft
from replicator.format.definition import Column, Definition
from replicator.format.statement import pack_define, pack_message
from replicator.format.wire import pack_block, pack_definition_frame, pack_part
from replicator.storage.data_dir import SealDir
from replicator.storage.journal.pruning import remove_pages
from replicator.storage.journal.regions import KnownRegions
from replicator.storage.journal.sealed import Seal, file_sum, name_of, seal_fields, verified
from replicator.storage.journal.store import Journal
from replicator.storage.journal.truncate import check_truncated, truncate
from replicator.storage.journal.walk import walk

STRAND = "main"
TABLE = Definition("public", "wallets", (Column("id", "text"),), ("id",))
TIMES = [10, 500, 30, 40, 50, 900, 70, 80, 90, 100]  # µs: clocks jump


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Ten blocks: two pages of five; then a large one; then one that defines a table."""
    made = Journal(tmp_path / "journal.sqlite3")
    made.open()
    for first in (0, 5):
        made.append(STRAND, [draft(number) for number in range(first + 1, first + 6)], 1)
    parts = [BlockPart(1, pack_message("part", b"%d" % number)) for number in range(40)]
    made.append(STRAND, [*parts, Draft("large", "", 110, 0, 40, None)], 1)
    made.append(STRAND, [Draft("table", "", 120, HAS_DEFINITIONS, 1, pack_define(7, TABLE))], 1)
    yield made
    made.close()


def draft(number: int) -> Draft:
    return Draft(f"tx{number}", "", TIMES[number - 1], 0, 1, pack_message("n", b"%d" % number))


def seal(journal: Journal, sequence: int) -> Seal:
    """A seal of what lies behind a sequence, as any implementation may write one."""
    fork, last = journal.position_at(STRAND, sequence), journal.head(STRAND)
    assert fork is not None
    made = SealDir(journal.path.parent / name_of(fork, last))
    made.path.mkdir()
    frames = [pack_definition_frame(*one) for one in journal.definitions_in_order(STRAND, sequence)]
    for block in journal.blocks(STRAND, sequence, 1 << 30):
        at = block.header.sequence
        frames += [pack_part(at, number, part) for number, part in enumerate(journal.parts(STRAND, at))]
        frames.append(pack_block(block))
    made.blocks.write_bytes(b"".join(frames))
    for file in (made.report, made.page):
        file.write_text("{}")
    sums = {file.name: file_sum(file) for file in made.summed}
    fields = seal_fields(Seal(made.path, fork, last, last.sequence - sequence, 1, last), sums)
    write_file(made.seal, [json.dumps(fields)])
    return verified(made.path)


@pytest.mark.parametrize("sequence", range(12))
def test_the_journal_is_as_if_it_had_never_been_longer(journal: Journal, sequence: int, tmp_path: Path) -> None:
    other = Journal(tmp_path / "other.sqlite3")
    other.open()
    for block in journal.blocks(STRAND, 0, 1 << 30)[:sequence]:
        number = block.header.sequence
        parts = enumerate(journal.parts(STRAND, number))
        other.stage(STRAND, [(number, place, part) for place, part in parts])
        other.accept(STRAND, [block])
    proven = seal(journal, sequence)
    truncate(journal, proven)
    check_truncated(journal, proven.fork)
    assert journal.head(STRAND) == other.head(STRAND)
    assert journal.blocks(STRAND, 0, 1 << 30) == other.blocks(STRAND, 0, 1 << 30)
    assert journal.definitions(STRAND) == other.definitions(STRAND) == {}
    assert [len(journal.part_sizes(STRAND, 11)), len(other.part_sizes(STRAND, 11))] == [40 * (sequence >= 11)] * 2
    for time in (0, 10, 11, 500, 501, 900, 901):
        assert journal.sequence_before(STRAND, time) == other.sequence_before(STRAND, time), time
    assert walk(journal, STRAND).broken is None
    truncate(journal, proven)  # done already
    more = [draft(1), Draft("again", "", 1, HAS_DEFINITIONS, 1, pack_define(7, TABLE))]
    assert journal.append(STRAND, more, 2) == other.append(STRAND, more, 2)
    other.close()


def test_a_journal_that_was_pruned_is_cut_to_its_beginning(journal: Journal) -> None:
    while remove_pages(journal, STRAND, 5).sequence < 5:
        pass
    proven = seal(journal, 5)
    truncate(journal, proven)
    check_truncated(journal, proven.fork)
    assert journal.head(STRAND) == journal.base(STRAND) == proven.fork
    assert journal.append(STRAND, [draft(1)], 2)[0].header.sequence == 6


def test_a_journal_that_is_cut_to_its_beginning_knows_its_times(journal: Journal) -> None:
    while remove_pages(journal, STRAND, 5).sequence < 5:
        pass
    truncate(journal, seal(journal, 5))
    journal.append(STRAND, [draft(1), draft(3)], 1)  # by a clock that jumped back: one page
    assert journal.high_at(STRAND, 7) == 500
    truncate(journal, seal(journal, 6))
    assert journal.high_at(STRAND, 6) == 500


def test_nobody_is_known_to_have_what_was_cut_away(journal: Journal) -> None:
    regions = KnownRegions(journal, STRAND)
    regions.report("lima", 9, 1)
    regions.report("oslo", 4, 1)
    ninth, fourth = journal.position_at(STRAND, 9), journal.position_at(STRAND, 4)
    journal.set_note("verified:main", str(ninth))
    journal.set_note("other", "note")
    truncate(journal, seal(journal, 7))
    seventh = journal.position_at(STRAND, 7)
    assert journal.notes() == {"verified:main": str(seventh), "other": "note"}
    assert [(one.name, one.sequence) for one in KnownRegions(journal, STRAND).all()] == [("lima", 7), ("oslo", 4)]
    journal.set_note("verified:main", str(fourth))
    truncate(journal, seal(journal, 6))
    assert journal.notes()["verified:main"] == str(fourth)


def test_what_is_staged_behind_the_cut_goes_too(journal: Journal) -> None:
    journal.stage(STRAND, [(13, 0, BlockPart(1, pack_message("n", b"13")))])
    truncate(journal, seal(journal, 11))
    assert (journal.part_sizes(STRAND, 13), len(journal.part_sizes(STRAND, 11))) == ([], 40)


def test_an_end_that_is_not_the_fork_is_noticed(journal: Journal) -> None:
    position = journal.position_at(STRAND, 8)
    assert position is not None
    with pytest.raises(Corrupt, match="was to end at"):
        check_truncated(journal, position)
