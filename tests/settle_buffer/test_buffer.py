"""The core in sequence order: what comes out, when, and what stops a strand."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from settle_buffer import (
    AutoWindow,
    Conflict,
    Duplicate,
    Entry,
    GapExpired,
    GapFilled,
    GapOpened,
    GapRequest,
    GapWaived,
    Late,
    Load,
    Misuse,
    Pressure,
    Release,
    SettleBuffer,
    SettleConfig,
    Stopped,
)
from tests.settle_buffer.makers import chain, of_kind, released

SECOND = 1_000_000


def started(config: SettleConfig | None = None, *strands: str) -> SettleBuffer:
    buffer = SettleBuffer(config or SettleConfig())
    for strand in strands or ("main",):
        buffer.start(strand, 0, b"")
    return buffer


def test_in_order_entries_leave_at_once_as_one_run() -> None:
    entries = chain("main", 100)
    assert started().offer(entries, 0) == [Release("main", entries)]


def test_strands_do_not_wait_for_each_other_in_sequence_order() -> None:
    buffer = started(None, "a", "b")
    a, b = chain("a", 3), chain("b", 3)
    events = buffer.offer([a[1], b[0], b[1], a[2]], 0)
    assert released(events) == b[:2]
    assert released(buffer.offer([a[0]], 1)) == a


def test_a_gap_is_requested_after_the_window_and_again_until_filled() -> None:
    buffer = started(SettleConfig(window_us=2 * SECOND, request_every_us=5 * SECOND))
    entries = chain("main", 10)
    assert buffer.offer(entries[4:], 0) == [GapOpened("main", 1, 4)]
    assert buffer.next_timer() == 2 * SECOND
    assert buffer.handle_timer(2 * SECOND - 1) == []
    assert buffer.handle_timer(2 * SECOND) == [GapRequest("main", 1, 4, 1)]
    assert of_kind(buffer.offer(entries[1:3], 3 * SECOND), Release) == []
    assert buffer.handle_timer(7 * SECOND) == [GapRequest("main", 1, 4, 2)]
    events = buffer.offer([entries[0]], 8 * SECOND)
    assert released(events) == entries[:3]
    events = buffer.offer([entries[3]], 9 * SECOND)
    assert released(events) == entries[3:]
    (filled,) = of_kind(events, GapFilled)
    assert filled[:3] == ("main", 1, 4)
    assert filled.certificate is not None
    assert (filled.certificate.how, filled.certificate.known_by) == ("filled", "links")
    assert buffer.next_timer() is None


def test_time_alone_never_closes_a_gap() -> None:
    buffer = started(SettleConfig(expire_after_us=10 * SECOND))
    entries = chain("main", 3)
    buffer.offer(entries[1:], 0)
    events = [event for second in range(1, 10_000, 7) for event in buffer.handle_timer(second * SECOND)]
    assert len(of_kind(events, GapExpired)) == 1
    assert released(events) == []
    assert buffer.status(10_000 * SECOND).gaps[0].expired
    assert released(buffer.offer(entries[:1], 10_000 * SECOND)) == entries


def test_a_hole_that_closes_before_it_is_asked_for_leaves_no_certificate() -> None:
    buffer = started()
    entries = chain("main", 3)
    buffer.offer(entries[1:], 0)
    (filled,) = of_kind(buffer.offer(entries[:1], 1), GapFilled)
    assert filled.certificate is None


def test_duplicates_are_counted_and_dropped_wherever_the_first_copy_is() -> None:
    buffer = started()
    entries = chain("main", 10)
    buffer.offer(entries[:4], 0)
    buffer.offer(entries[6:], 0)
    events = buffer.offer(entries[2:4] + entries[7:9] + entries[4:5], 0)
    assert released(events) == entries[4:5]
    assert sum(event.copies for event in of_kind(events, Duplicate)) == 4
    assert sum(event.unproven for event in of_kind(events, Duplicate)) == 0


def test_a_duplicate_released_long_ago_is_said_to_be_unproven() -> None:
    buffer = started(SettleConfig(remembered=10))
    entries = chain("main", 100)
    for entry in entries:
        buffer.offer([entry], 0)
    assert buffer.offer(entries[:1], 0) == [Duplicate("main", 1, 1)]
    assert buffer.offer(entries[-5:], 0) == [Duplicate("main", 5, 0)]


@pytest.mark.parametrize("place", ["released", "held"])
def test_another_content_for_a_sequence_stops_the_strand_and_shows_both(place: str) -> None:
    buffer = started()
    entries = chain("main", 5)
    buffer.offer(entries[:2] if place == "released" else entries[1:3], 0)
    other = entries[1]._replace(digest=b"other")
    events = buffer.offer([other], 0)
    (conflict,) = of_kind(events, Conflict)
    assert (conflict.kind, conflict.digest, conflict.other) == ("digest", entries[1].digest, other)
    assert conflict.mine == (None if place == "released" else entries[1])
    assert of_kind(events, Stopped) == [Stopped("main", "conflict")]
    assert released(buffer.offer(entries, 1)) == []


def test_an_entry_that_names_another_predecessor_is_not_released() -> None:
    buffer = started()
    entries = chain("main", 5)
    entries[3] = entries[3]._replace(link=b"elsewhere")
    events = buffer.offer(entries, 0)
    assert released(events) == entries[:3]
    (conflict,) = of_kind(events, Conflict)
    assert (conflict.kind, conflict.sequence, conflict.mine, conflict.other) == ("link", 4, entries[2], entries[3])


def test_the_first_link_is_proven_against_the_consumers_position() -> None:
    entries = chain("main", 5)
    buffer = SettleBuffer(SettleConfig())
    buffer.start("main", 3, b"not the third's digest")
    assert of_kind(buffer.offer(entries[3:], 0), Conflict)
    buffer = SettleBuffer(SettleConfig())
    buffer.start("main", 3, entries[2].digest)
    assert released(buffer.offer(entries, 0)) == entries[3:]


def test_a_conflict_is_cured_by_discarding_what_waits_and_fetching_it_again() -> None:
    buffer = started()
    entries = chain("main", 5)
    wrong = [*entries[:2], entries[2]._replace(link=b"elsewhere"), *entries[3:]]
    buffer.offer(wrong, 0)
    buffer.discard("main", 3, 3, 1)
    assert buffer.resume("main", 1) == []
    assert released(buffer.offer([entries[2]], 2)) == entries[2:]


def test_a_waiver_releases_what_is_behind_and_what_comes_after_all_is_late() -> None:
    buffer = started()
    entries = chain("main", 10)
    buffer.offer(entries[:2] + entries[5:], 0)
    events = buffer.waive("main", 3, 5, "ann", "lost with the disk of region b", SECOND)
    assert released(events) == entries[5:]
    (waived,) = of_kind(events, GapWaived)
    assert (waived.certificate.first, waived.certificate.last, waived.certificate.who) == (3, 5, "ann")
    events = buffer.offer([entries[3]], 2 * SECOND)
    assert of_kind(events, Late) == [Late(entries[3], "halt", 0)]
    assert of_kind(events, Stopped) == [Stopped("main", "late")]


def test_a_waiver_needs_a_reason_and_something_missing() -> None:
    buffer = started()
    buffer.offer(chain("main", 5)[2:], 0)
    before = buffer.status(0)
    for arguments in (("main", 1, 2, "ann", " "), ("main", 1, 2, "", "why"), ("main", 3, 5, "ann", "why")):
        with pytest.raises(Misuse):
            buffer.waive(*arguments, 0)
    assert buffer.status(0) == before


@pytest.mark.parametrize(
    "illegal",
    [
        lambda entry: entry._replace(sequence=0),
        lambda entry: entry._replace(sequence=2**63),
        lambda entry: entry._replace(strand="unknown"),
        lambda entry: entry._replace(digest=b"x" * 256),
    ],
)
def test_an_illegal_offer_changes_nothing(illegal: Callable[[Entry], Entry]) -> None:
    buffer = started()
    entries = chain("main", 5)
    before = buffer.status(0)
    with pytest.raises(Misuse):
        buffer.offer([*entries[:4], illegal(entries[4])], 0)
    assert buffer.status(0) == before
    assert released(buffer.offer(entries, 0)) == entries


def test_what_does_not_fit_in_memory_is_loaded_when_it_is_due() -> None:
    buffer = started(SettleConfig(resident_entries=100, load_entries=64))
    entries = chain("main", 1_000)
    buffer.offer(entries[1:], 0)
    assert buffer.room.resident_entries <= 100
    assert buffer.room.held_entries == 999
    events = buffer.offer(entries[:1], 1)
    out = released(events)
    while loads := of_kind(events, Load):
        (load,) = loads
        events = buffer.loaded("main", load.first, load.last, entries[load.first - 1 : load.last], 2)
        out += released(events)
    assert out == entries
    assert (buffer.room.held_entries, buffer.room.held_bytes) == (0, 0)


def test_a_spilled_copy_with_another_content_is_found_when_it_is_loaded() -> None:
    buffer = started(SettleConfig(resident_entries=1))
    entries = chain("main", 5)
    other = entries[3]._replace(digest=b"other")
    buffer.offer(entries[1:], 0)
    buffer.offer([other], 0)
    (load,) = of_kind(buffer.offer(entries[:1], 0), Load)
    events = buffer.loaded("main", load.first, load.last, [*entries[1:4], other, entries[4]], 0)
    assert released(events) == []
    assert of_kind(events, Conflict)[0].other == other


def test_what_the_spool_has_lost_becomes_a_gap_and_is_fetched_again() -> None:
    buffer = started(SettleConfig(resident_entries=1))
    entries = chain("main", 6)
    buffer.offer(entries[1:], 0)
    (load,) = of_kind(buffer.offer(entries[:1], 0), Load)
    events = buffer.loaded("main", load.first, load.last, [entries[1], entries[2], entries[4], entries[5]], 0)
    assert released(events) == entries[1:3]
    assert of_kind(events, GapOpened) == [GapOpened("main", 4, 4)]
    assert released(buffer.offer([entries[3]], 0)) == entries[3:]


def test_pressure_says_when_a_bound_is_reached_and_when_there_is_room_again() -> None:
    buffer = started(SettleConfig(entries_limit=10))
    entries = chain("main", 30)
    assert of_kind(buffer.offer(entries[1:11], 0), Pressure) == [Pressure(True, "entries")]
    assert not buffer.helps(entries[11:20])
    assert buffer.helps(entries[:1])
    assert of_kind(buffer.offer(entries[:1], 0), Pressure) == [Pressure(False, "entries")]


@pytest.mark.parametrize("seed", range(20))
def test_any_arrival_order_releases_the_chain_once(seed: int) -> None:
    dice = random.Random(seed)
    strands = {name: chain(name, 200) for name in "abc"}
    arriving = [entry for entries in strands.values() for entry in entries] * 2
    dice.shuffle(arriving)
    buffer = started(SettleConfig(resident_entries=10_000), *strands)
    out = []
    while arriving:
        size = dice.randint(1, 50)
        out += released(buffer.offer(arriving[:size], 0))
        del arriving[:size]
    for name, entries in strands.items():
        assert [entry for entry in out if entry.strand == name] == entries


def test_what_is_discarded_while_it_is_loaded_is_fetched_again_all_the_same() -> None:
    buffer = started(SettleConfig(resident_entries=1))
    entries = chain("main", 6)
    buffer.offer(entries[1:], 0)
    (load,) = of_kind(buffer.offer(entries[:1], 0), Load)
    buffer.discard("main", 4, 4, 0)
    events = buffer.loaded("main", load.first, load.last, entries[1:], 0)
    (load,) = of_kind(events, Load)
    assert (load.first, load.last) == (2, 3)
    assert released(buffer.loaded("main", 2, 3, entries[1:3], 0)) == entries[1:3]
    events = buffer.offer(entries[3:4], 0)
    (load,) = of_kind(events, Load)
    assert released(events + buffer.loaded("main", 5, 6, entries[4:], 0)) == entries[3:]


def test_the_auto_window_of_a_strand_learns_how_long_its_holes_are_open() -> None:
    buffer = started(SettleConfig(window_us=AutoWindow(miss=0.001, least_us=1_000, most_us=60 * SECOND)))
    entries = chain("main", 20_000)
    for number in range(0, 20_000, 20):
        now = number * 10_000
        buffer.offer(entries[number + 1 : number + 20], now)
        buffer.offer(entries[number : number + 1], now + 30_000)
    assert 30_000 <= buffer.window.us <= 60_000
    buffer.offer(chain("main", 5, first=20_002), 300 * SECOND)
    assert buffer.next_timer() == 300 * SECOND + buffer.window.us
