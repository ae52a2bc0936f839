"""All strands in one order: what holds, what lets go, and who comes back late."""

from __future__ import annotations

import pytest

from settle_buffer import Correction, Entry, Idle, Late, Load, Release, SettleBuffer, SettleConfig, Stopped
from settle_buffer.config import LatePolicy
from tests.settle_buffer.makers import chain, of_kind, released

SECOND = 1_000_000


def strand(name: str, *times: int) -> list[Entry]:
    return [entry._replace(at=at) for entry, at in zip(chain(name, len(times)), times, strict=True)]


def started(config: SettleConfig | None = None) -> SettleBuffer:
    buffer = SettleBuffer(config or SettleConfig(order="merged", heartbeats_only=True, idle_after_us=60 * SECOND))
    for name in "ab":
        buffer.start(name, 0, b"")
    return buffer


def test_entries_wait_for_every_strand_and_leave_by_time_strand_sequence() -> None:
    buffer = started()
    a, b = strand("a", 10, 20, 30), strand("b", 5, 20, 25)
    assert released(buffer.offer(a, 0)) == []
    events = buffer.offer(b, 0)
    assert events == [Release(None, [b[0], a[0], a[1], b[1], b[2]])]
    assert buffer.status(0).held_entries == 1


def test_a_heartbeat_resolves_time_only_when_its_entries_are_here() -> None:
    buffer = started()
    a, b = strand("a", 10, 20), strand("b", 15)
    buffer.offer(a, 0)
    assert released(buffer.heartbeat("b", 30, 0, sequence=1)) == []
    assert buffer.status(0).gaps[0].strand == "b", "a heartbeat tells of entries that have not come"
    buffer.heartbeat("a", 30, 0, sequence=2)
    assert released(buffer.offer(b, 1)) == [a[0], b[0], a[1]]


def test_without_heartbeats_the_window_resolves_by_the_feeds_clock() -> None:
    buffer = started(SettleConfig(order="merged", window_us=2 * SECOND))
    a = strand("a", 100 * SECOND)
    assert released(buffer.offer(a, 5 * SECOND)) == []
    assert buffer.next_timer() == 7 * SECOND + 1
    assert released(buffer.handle_timer(7 * SECOND)) == []
    assert released(buffer.handle_timer(7 * SECOND + 1)) == a


def test_the_window_never_passes_over_a_gap() -> None:
    buffer = started(SettleConfig(order="merged", window_us=2 * SECOND, idle_after_us=3 * SECOND))
    a, b = strand("a", 10), strand("b", 5, 20)
    buffer.offer([*a, b[1]], 0)
    assert released(buffer.handle_timer(3_600 * SECOND)) == []
    assert released(buffer.offer(b[:1], 3_601 * SECOND)) == [b[0], a[0], b[1]]


def test_an_idle_strand_does_not_hold_the_others_and_comes_back() -> None:
    buffer = started()
    a, b = strand("a", 10, 20, 90), strand("b", 5, 50)
    buffer.offer(a[:2], 0)
    events = buffer.heartbeat("b", 7, 0, sequence=0, idle=True)
    assert of_kind(events, Idle) == [Idle("b", True)]
    assert released(events) == a[:2]
    events = buffer.offer([b[0]._replace(at=40)], 1)
    assert of_kind(events, Idle) == [Idle("b", False)]
    assert released(buffer.offer(a[2:], 2)) == [b[0]._replace(at=40)]


def test_a_silent_strand_falls_idle_after_the_configured_time() -> None:
    buffer = started()
    a = strand("a", 10)
    buffer.offer(a, 0)
    assert buffer.next_timer() == 60 * SECOND
    events = buffer.handle_timer(60 * SECOND)
    assert (of_kind(events, Idle), released(events)) == ([Idle("b", True)], a)


@pytest.mark.parametrize("policy", ["halt", "quarantine", "correct"])
def test_what_comes_behind_the_front_is_late(policy: LatePolicy) -> None:
    buffer = started(
        SettleConfig(order="merged", heartbeats_only=True, late=policy, keys_of=lambda e: frozenset([b"k"]))
    )
    a, b = strand("a", 10, 20, 30), strand("b", 15, 40)
    buffer.heartbeat("b", 5, 0, sequence=0, idle=True)
    assert released(buffer.offer(a, 0)) == a
    events = buffer.offer(b, 1)
    assert of_kind(events, Late) == [Late(b[0], policy, 15)]
    assert of_kind(events, Stopped) == ([Stopped("b", "late")] if policy == "halt" else [])
    assert of_kind(events, Correction) == ([Correction(b[0], frozenset([b"k"]), 15, 30)] if policy == "correct" else [])
    events += buffer.heartbeat("a", 99, 2, sequence=3)
    assert released(events) == ([] if policy == "halt" else [b[1]])
    if policy == "halt":
        assert released(buffer.resume("b", 3)) == [b[1]]


def test_a_stopped_strand_holds_the_order_of_all() -> None:
    buffer = started()
    a, b = strand("a", 10, 20), strand("b", 15, 30)
    buffer.offer(b, 0)
    buffer.stop("b", "an operator says so")
    events = buffer.offer(a, 0) + buffer.heartbeat("a", 50, 0, sequence=2)
    assert released(events) == [a[0]]
    assert released(buffer.resume("b", 1)) == [b[0], a[1], b[1]]


def test_a_strand_whose_clock_goes_back_keeps_its_sequence() -> None:
    buffer = started()
    a, b = strand("a", 10, 30, 20, 40), strand("b", 25, 50)
    assert released(buffer.offer(a + b, 0)) == [a[0], b[0], a[1], a[2], a[3]]


def test_a_strand_that_runs_far_ahead_goes_to_disk() -> None:
    config = SettleConfig(order="merged", heartbeats_only=True, resident_entries=10, load_entries=4)
    buffer = started(config)
    a, b = strand("a", *range(1, 101)), strand("b", 1_000)
    events = [event for entry in a for event in buffer.offer([entry], 0)]
    assert released(events) == []
    assert buffer.room.resident_entries <= 2 * config.resident_entries
    events = buffer.offer(b, 1)
    out = released(events)
    while loads := of_kind(events, Load):
        (load,) = loads
        events = buffer.loaded("a", load.first, load.last, a[load.first - 1 : load.last], 2)
        out += released(events)
    assert out == a


def test_after_a_restart_the_front_is_the_consumers() -> None:
    a, b = strand("a", 10, 20), strand("b", 15, 30)
    buffer = SettleBuffer(SettleConfig(order="merged", heartbeats_only=True, late="quarantine"))
    buffer.start("a", 2, a[1].digest, at=20)
    buffer.start("b", 0, b"")
    events = buffer.offer(b, 0)
    assert of_kind(events, Late) == [Late(b[0], "quarantine", 5)]
