"""Where a promoted server begins, and how its columns are numbered."""

from __future__ import annotations

import random

import pytest

from replicator.errors import Halted
from replicator.format.definition import Column, Definition
from replicator.pipeline.sources.postgres.chain_start import (
    BEGINS_NOTE,
    NUMBERS_NOTE,
    ChainStart,
    numbering,
    origin_here,
    pack_begins,
    pack_numbering,
    read_begins,
    read_numberings,
)

BEGINS = ChainStart(2, 10, 0x1_0000_0010)


def definition(*numbers: int) -> Definition:
    columns = tuple(Column(f"c{number}", "integer", number=number) for number in numbers)
    return Definition("public", "wallets", columns, ())


def test_the_note_reads_back_and_what_is_none_halts() -> None:
    assert read_begins({BEGINS_NOTE: pack_begins(BEGINS)}) == BEGINS
    assert read_begins({}) is None
    for text in ("", "[]", "{}", '{"epoch": 1, "sequence": 2, "lsn": "x"}'):
        with pytest.raises(Halted):
            read_begins({BEGINS_NOTE: text})


def test_an_origin_counts_only_with_the_server_that_wrote_it() -> None:
    notes = {BEGINS_NOTE: pack_begins(BEGINS)}
    assert origin_here({}, 7, "0/7") == "0/7"
    assert origin_here({}, 0, None) is None
    for sequence, origin in ((0, None), (9, "F/F"), (10, "F/F")):
        assert origin_here(notes, sequence, origin) == "1/10"
    assert origin_here(notes, 11, "1/20") == "1/20"


def test_numbers_there_and_back() -> None:
    """Drawn histories: what both have keeps its number, what comes later never takes one that was used."""
    draws = random.Random(5)
    for _ in range(2_000):
        ever = sorted(draws.sample(range(1, 30), draws.randint(1, 12)))
        known = definition(*sorted(draws.sample(ever, draws.randint(1, len(ever)))))
        places = list(range(1, len(known.columns) + draws.randint(1, 5)))
        here = dict(zip([c.name for c in known.columns], sorted(draws.sample(places, len(known.columns))), strict=True))
        highest_here = max(places) + draws.randint(0, 4)
        numbers = numbering(known, here, max(ever), highest_here)
        assert {c.name: c.number for c in numbers.here(known).columns} == here
        assert numbers.in_ledger(numbers.here(known)) == known
        later = Column("later", "integer", number=highest_here + 1)
        new = numbers.in_ledger(Definition("public", "wallets", (*numbers.here(known).columns, later), ()))
        assert new.columns[:-1] == known.columns
        assert new.columns[-1].number > max(ever)
        assert numbers.here(new).columns[-1] == later
        assert read_numberings({f"{NUMBERS_NOTE}7": pack_numbering(numbers)}) == {7: numbers}


def test_the_same_numbers_need_no_note() -> None:
    known = definition(1, 2, 3)
    assert not numbering(known, {"c1": 1, "c2": 2, "c3": 3}, 3, 3).pairs
    assert numbering(known, {"c1": 1, "c2": 2, "c3": 3}, 5, 3).shift == 2, "4 and 5 were columns once"
