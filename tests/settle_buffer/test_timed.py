"""Time order: the classic settling buffer."""

from __future__ import annotations

import random

import pytest

from settle_buffer import AutoWindow, Conflict, Duplicate, Entry, Late, Load, SettleBuffer, SettleConfig
from tests.settle_buffer.makers import of_kind, released

SECOND = 1_000_000
CONFIG = SettleConfig(order="time", window_us=2 * SECOND)


def entry(at: int, name: str = "", sequence: int = 0) -> Entry:
    return Entry("main", sequence, at, f"{at}{name}".encode(), b"", b"body")


def started(config: SettleConfig = CONFIG) -> SettleBuffer:
    buffer = SettleBuffer(config)
    buffer.start("main", 0, b"")
    return buffer


@pytest.mark.parametrize("skew", [0, 10**12, -(10**12)])
def test_what_is_older_than_the_window_by_the_feeds_clock_leaves_earliest_first(skew: int) -> None:
    buffer = started()
    first, second = entry(100 * SECOND), entry(101 * SECOND)
    buffer.heartbeat("main", 101 * SECOND, skew)
    assert released(buffer.offer([second, first], skew)) == []
    assert buffer.next_timer() == skew + SECOND
    assert released(buffer.handle_timer(skew + SECOND)) == [first]
    assert released(buffer.heartbeat("main", 103 * SECOND, skew + 2 * SECOND)) == [second]
    assert buffer.next_timer() is None


def test_ties_are_broken_by_sequence_then_digest() -> None:
    buffer = started()
    entries = [entry(5, "b", 2), entry(5, "a", 3), entry(5, "z"), entry(5, "y")]
    buffer.offer(entries, 0)
    assert released(buffer.heartbeat("main", 10 * SECOND, 1)) == [entries[3], entries[2], entries[0], entries[1]]


def test_duplicates_and_conflicts_are_told_apart_before_and_after_the_release() -> None:
    buffer = started()
    one = entry(5, "one", 1)
    for _ in range(2):
        buffer.offer([one], 0)
        assert buffer.offer([one], 0) == [Duplicate("main", 1, 0)]
        events = buffer.offer([one._replace(digest=b"other")], 0)
        (conflict,) = of_kind(events, Conflict)
        assert (conflict.digest, conflict.other.digest) == (one.digest, b"other")
        buffer.resume("main", 0)
        buffer.heartbeat("main", 10 * SECOND, 0)
    assert buffer.delivered("main") == 5


def test_what_comes_behind_the_front_is_late() -> None:
    buffer = started()
    buffer.offer([entry(50)], 0)
    buffer.heartbeat("main", 10 * SECOND, 0)
    assert of_kind(buffer.offer([entry(20)], 0), Late) == [Late(entry(20), "halt", 30)]


def test_what_does_not_fit_in_memory_is_loaded_when_it_is_due() -> None:
    config = SettleConfig(order="time", window_us=2 * SECOND, resident_entries=10)
    buffer = started(config)
    entries = [entry(SECOND + number // 2, str(number)) for number in range(200)]
    arriving = entries.copy()
    random.Random(1).shuffle(arriving)
    for one in arriving:
        assert released(buffer.offer([one], 0)) == []
        assert buffer.room.resident_entries <= 10
    assert buffer.room.held_entries == 200
    events = buffer.heartbeat("main", 10 * SECOND, 0)
    out = released(events)
    while loads := of_kind(events, Load):
        (load,) = loads
        last = min(load.last, load.first + 7)
        events = buffer.loaded("", load.first, last, [e for e in entries if load.first <= e.at <= last], 0)
        out += released(events)
    assert out == sorted(entries, key=lambda e: (e.at, e.digest))
    assert (buffer.room.held_entries, buffer.room.held_bytes) == (0, 0)


def test_the_auto_window_follows_the_lateness() -> None:
    buffer = started(SettleConfig(order="time", window_us=AutoWindow(0.01, 1_000, 10 * SECOND)))
    assert buffer.status(0).window_us == 10 * SECOND
    for number in range(20_000):
        at = number * 1_000
        buffer.heartbeat("main", at, at)
        buffer.offer([entry(at - 100_000)], at)
    status = buffer.status(0)
    assert 100_000 <= status.window_us <= 200_000
    assert "came within" in status.window_reason
    assert sum(status.lateness) == 20_000


def test_what_arrives_while_something_is_loaded_finds_its_place() -> None:
    buffer = started(SettleConfig(order="time", window_us=2 * SECOND, resident_entries=4))
    on_disk = [entry(100 + 10 * number) for number in range(20)]
    buffer.offer(on_disk, 0)
    events = buffer.heartbeat("main", 10 * SECOND, 0)
    out = released(events)
    (load,) = of_kind(events, Load)
    between = [entry(load.first - 9 + number) for number in range(9)]
    on_disk += between
    assert buffer.offer(between + on_disk[18:19], 0) == [], "nothing passes what is being loaded"
    on_disk += on_disk[18:19]
    while loads := of_kind(events, Load):
        (load,) = loads
        found = [e for e in on_disk if load.first <= e.at <= load.last]
        events = buffer.loaded("", load.first, load.last, found, 0)
        out += released(events)
    assert out == sorted({*on_disk}, key=lambda e: e.at)
    assert buffer.room.held_entries == 0
