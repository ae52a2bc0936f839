"""Walking the chain: the first broken link is named, whatever was done to the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.format.block import BlockPart, Draft
from replicator.format.statement import pack_insert
from replicator.format.wire import pack_block, unpack_page
from replicator.storage.journal.store import Journal
from replicator.storage.journal.walk import walk
from tests.storage.journal.test_store import STRAND, draft


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Blocks 1 to 9 in pages of three, then the large block 10, then 11."""
    store = Journal(tmp_path / "journal.db")
    store.open()
    for first in (1, 4, 7):
        store.append(STRAND, [draft(n) for n in range(first, first + 3)], 1)
    parts = [BlockPart(1, pack_insert(1, b"x" * 100)), BlockPart(1, pack_insert(1, b"y" * 100))]
    store.append(STRAND, [*parts, Draft("big", "0/A", 100, 0, 2, None), draft(11)], 1)
    yield store
    store.close()


def change(journal: Journal, sql: str, *parameters: object) -> None:
    with sqlite3.connect(journal.path) as connection:
        connection.execute(sql, parameters)
    connection.close()


def test_a_whole_chain_is_walked_to_its_head(journal: Journal) -> None:
    result = walk(journal, STRAND)
    assert (result.broken, result.blocks, result.position) == (None, 11, journal.head(STRAND))


@pytest.mark.parametrize(
    ("sql", "broken_at"),
    [
        ("DELETE FROM page WHERE last = 3", 1),
        ("DELETE FROM page WHERE last = 6", 4),
        ("UPDATE page SET data = (SELECT data FROM page WHERE last = 6) WHERE last = 9", 7),
        ("DELETE FROM part WHERE number = 1", 10),
        ("UPDATE part SET data = x'00' WHERE number = 0", 10),
    ],
)
def test_what_was_taken_or_changed_is_named(journal: Journal, sql: str, broken_at: int) -> None:
    change(journal, sql)
    result = walk(journal, STRAND)
    assert result.broken is not None
    assert result.position.sequence + 1 == broken_at


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_any_changed_byte_is_named_at_its_block(journal: Journal, place: int) -> None:
    (page,) = journal.pages(STRAND, 3, 1)
    spoiled = bytearray(page.data)
    place %= len(spoiled)
    spoiled[place] ^= 0x10
    ends: list[int] = []
    for block in unpack_page(page.data):
        ends.append((ends[-1] if ends else 0) + len(pack_block(block)))
    change(journal, "UPDATE page SET data = ? WHERE last = 6", bytes(spoiled))
    result = walk(journal, STRAND)
    assert result.broken is not None
    assert result.position.sequence + 1 in (
        4 + sum(end <= place for end in ends),
        5 + sum(end <= place for end in ends),
    )
