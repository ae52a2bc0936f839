"""The settle buffer's events in words: what needs a person is loud, and shows both sides."""

from __future__ import annotations

import logging

import pytest

from replicator.errors import Halted
from replicator.pipeline.feed.journal_writer import _released
from replicator.pipeline.feed.notices import GapCounts, behind_waiver, notice, stopped
from settle_buffer.entry import Entry
from settle_buffer.events import (
    Certificate,
    Conflict,
    Correction,
    Duplicate,
    Event,
    GapExpired,
    GapFilled,
    GapOpened,
    GapRequest,
    GapWaived,
    Idle,
    Late,
    Pressure,
    Release,
    SpoolSetAside,
    Stopped,
)

MINE, OTHER, LINK = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
ENTRY = Entry("main", 7, 0, OTHER, LINK, b"body")
WAIVED = Certificate("main", 5, 6, 0, 1, 3, "waived", "operator", "ann", "lost with the disk")
FILLED = Certificate("main", 5, 6, 0, 1, 3, "filled", "links", "", "")


@pytest.mark.parametrize(
    ("event", "level", "words"),
    [
        (GapRequest("main", 5, 5, 1), logging.INFO, "gap 5 did not come"),
        (GapRequest("main", 5, 6, 2), logging.DEBUG, "attempt=2"),
        (GapExpired("main", 5, 6), logging.WARNING, "gap 5 to 6 is still missing: see replicator gaps"),
        (GapFilled("main", 5, 6, 0, FILLED), logging.INFO, "gap 5 to 6 came after 3 requests"),
        (GapFilled("main", 5, 6, 0, None), logging.DEBUG, "GapFilled"),
        (GapWaived(WAIVED), logging.WARNING, "gap 5 to 6 was waived by ann: lost with the disk"),
        (Late(ENTRY, "quarantine", 0), logging.WARNING, f"kept apart: quarantine, {OTHER.hex()}"),
        (Pressure(True, "bytes"), logging.WARNING, "full (bytes)"),
        (Pressure(False, "bytes"), logging.INFO, "room again"),
        (SpoolSetAside("/srv/spool.damaged-1"), logging.ERROR, "/srv/spool.damaged-1"),
        (Idle("main", True), logging.DEBUG, "Idle"),
        (Duplicate("main", 3, 0), logging.DEBUG, "Duplicate"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_is_said_as_loud_as_it_is_serious(event: Event, level: int, words: str) -> None:
    said_at, said = notice(event)
    assert said_at == level
    assert words in said


@pytest.mark.parametrize("kind", ["digest", "link"])
def test_a_conflict_shows_both_sides_in_full(kind: str) -> None:
    level, said = notice(Conflict("main", 7, kind, MINE, None, ENTRY))
    assert level == logging.ERROR
    assert MINE.hex() in said
    assert OTHER.hex() in said
    assert (LINK.hex() in said) == (kind == "link")


def test_a_stop_says_why_and_what_to_do() -> None:
    halt = stopped(Stopped("main", "conflict"), "two blocks claim sequence 7")
    assert (halt.reason, halt.message, halt.place) == ("conflict", "two blocks claim sequence 7", "strand main")
    assert "replicator gaps discard" in halt.cure
    assert "replicator gaps late" in stopped(Stopped("main", "late"), "x").cure
    halt = behind_waiver(WAIVED)
    assert halt.reason == "waived"
    assert "waived by ann: lost with the disk" in halt.message
    assert "make this region anew" in halt.cure


def test_what_becomes_of_gaps_is_counted() -> None:
    counts = GapCounts()
    for event in (
        GapOpened("main", 5, 6),
        GapOpened("main", 8, 8),
        GapRequest("main", 5, 6, 1),
        GapExpired("main", 5, 6),
        GapFilled("main", 8, 8, 0, None),
        GapWaived(WAIVED),
        Duplicate("main", 1, 0),
    ):
        counts.add(event)
    assert counts == GapCounts(opened=2, requests=1, filled=1, expired=1, waived=1)


def test_a_correction_is_not_taken_for_a_release_nor_dropped() -> None:
    assert _released(Release("main", [ENTRY])) == [ENTRY]
    with pytest.raises(Halted, match="block 7 came behind what was settled"):
        _released(Correction(ENTRY, None, 7, 9))
