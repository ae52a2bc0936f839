"""The trio loop in the orders across strands and by time, with restarts; late entries, corrections and conflicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from settle_buffer import Conflict, Correction, Entry, Event, Late, Misuse, Release, SettleConfig, Spool
from settle_buffer.loop import Settler
from tests.settle_buffer.makers import chain, of_kind

SECOND = 1_000_000
TIMED = SettleConfig(order="time", window_us=2 * SECOND, late="correct")
MERGED = SettleConfig(order="merged", heartbeats_only=True)


async def receive(settler: Settler, count: int) -> list[Entry]:
    out: list[Entry] = []
    with trio.fail_after(20):
        while len(out) < count:
            release = await settler.releases.receive()
            assert isinstance(release, Release)
            out += release.entries
    return out


def by_time(*times: int) -> list[Entry]:
    return [Entry("main", 0, at, f"{number}".encode(), b"", b"body") for number, at in enumerate(times)]


async def test_time_order_survives_a_restart_in_the_middle_of_a_tie(tmp_path: Path) -> None:
    entries = by_time(10, 20, 20, 20, 30)
    settler = Settler(TIMED, tmp_path / "spool")
    settler.start("main", 0, b"")
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        for entry in entries[::-1]:
            await settler.put([entry])
        await settler.heartbeat("main", 10 * SECOND)
        assert await receive(settler, 5) == entries
        await settler.acknowledge("main", 20)  # the consumer holds the first of the entries of this time
        nursery.cancel_scope.cancel()
    settler = Settler(TIMED, tmp_path / "spool")
    settler.start("main", 0, entries[1].digest, at=20)
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.heartbeat("main", 10 * SECOND)
        assert await receive(settler, 3) == entries[2:]
        assert await settler.late() == []
        nursery.cancel_scope.cancel()


async def test_the_window_is_waited_for_by_the_timer(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    settler = Settler(TIMED, tmp_path / "spool")
    settler.start("main", 0, b"")
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.heartbeat("main", 100 * SECOND)
        begun = trio.current_time()
        await settler.put(by_time(100 * SECOND))
        with trio.fail_after(100):
            await settler.releases.receive()
        assert 2.0 <= trio.current_time() - begun < 2.1
        nursery.cancel_scope.cancel()


async def test_a_correction_is_delivered_until_it_is_settled(tmp_path: Path) -> None:
    entries = by_time(50, 20)
    for life in range(3):
        settler = Settler(TIMED, tmp_path / "spool")
        settler.start("main", 0, entries[0].digest if life else b"", at=50 if life else 0)
        async with trio.open_nursery() as nursery:
            await nursery.start(settler.run)
            if life == 0:
                await settler.put(entries[:1])
                await settler.heartbeat("main", 10 * SECOND)
                assert await receive(settler, 1) == entries[:1]
                await settler.put(entries[1:])
                await settler.acknowledge("main", 50)
            if life < 2:
                with trio.fail_after(10):
                    correction = await settler.releases.receive()
                assert isinstance(correction, Correction)
                assert correction == Correction(entries[1], None, 20, 50)
                ((number, late),) = await settler.late()
                assert late == entries[1]
            if life == 1:
                await settler.settle_late(number)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                settler.releases.receive_nowait()
            nursery.cancel_scope.cancel()


async def test_merged_order_survives_a_restart(tmp_path: Path) -> None:
    a = [entry._replace(at=entry.sequence * 10) for entry in chain("a", 20)]
    b = [entry._replace(at=entry.sequence * 10 + 5) for entry in chain("b", 20)]
    merged = sorted(a + b, key=lambda entry: entry.at)
    settler = Settler(MERGED, tmp_path / "spool")
    for name in "ab":
        settler.start(name, 0, b"")
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put(a)
        with pytest.raises(Misuse, match="not released"):
            await settler.acknowledge("a", 20)
        await settler.put(b[:10])
        assert await receive(settler, 20) == merged[:20]
        await settler.acknowledge("a", 3)
        await settler.acknowledge("b", 3)
        nursery.cancel_scope.cancel()
    settler = Settler(MERGED, tmp_path / "spool")
    settler.start("a", 3, a[2].digest, at=a[2].at)
    settler.start("b", 3, b[2].digest, at=b[2].at)
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put(b[10:])
        await settler.heartbeat("a", 10_000, sequence=20)
        assert await receive(settler, 34) == merged[6:]
        nursery.cancel_scope.cancel()


async def test_a_conflict_outlives_a_restart_until_one_side_is_rejected(tmp_path: Path) -> None:
    entries = chain("main", 10)
    other = entries[4]._replace(digest=b"other", body=b"another body")
    for life in range(3):
        events: list[Event] = []
        settler = Settler(SettleConfig(), tmp_path / "spool", notify=events.append)
        settler.start("main", 0, b"")
        async with trio.open_nursery() as nursery:
            await nursery.start(settler.run)
            if life == 0:
                await settler.put(entries[1:])
                await settler.put([other])
                await settler.put(entries[:1])
            assert bool(of_kind(events, Conflict)) == (life < 2)
            if life == 1:
                assert settler.status().strands[0].stopped == "conflict"
                await settler.reject(of_kind(events, Conflict)[0].other)
                await settler.resume("main")
            if life >= 1:
                assert await receive(settler, 10) == entries
            nursery.cancel_scope.cancel()


async def test_what_waits_wrongly_is_discarded_and_fetched_again(tmp_path: Path) -> None:
    entries = chain("main", 10)
    wrong = entries[4]._replace(link=b"elsewhere")
    for life in range(2):
        settler = Settler(SettleConfig(), tmp_path / "spool")
        settler.start("main", 0, b"")
        async with trio.open_nursery() as nursery:
            await nursery.start(settler.run)
            if life == 0:
                await settler.put([*entries[:4], wrong, *entries[5:]])
                assert settler.status().strands[0].stopped == "conflict"
                await settler.discard("main", 5, 5)
                await settler.resume("main")
                await settler.put(entries[4:5])
            assert await receive(settler, 10) == entries
            nursery.cancel_scope.cancel()


async def test_late_entries_are_told_and_do_not_come_back_once_settled(tmp_path: Path) -> None:
    config = SettleConfig(late="quarantine")
    entries = chain("main", 6)
    for life in range(2):
        events: list[Event] = []
        settler = Settler(config, tmp_path / "spool", notify=events.append)
        settler.start("main", 0, b"")
        async with trio.open_nursery() as nursery:
            await nursery.start(settler.run)
            if life == 0:
                await settler.put(entries[:2] + entries[3:])
                await settler.waive("main", 3, 3, "ann", "lost")
                await settler.put(entries[2:3])
                assert of_kind(events, Late) == [Late(entries[2], "quarantine", 0)]
                ((number, _),) = await settler.late()
                await settler.settle_late(number)
            else:
                assert of_kind(events, Late) == []
            assert await receive(settler, 5) == entries[:2] + entries[3:]
            nursery.cancel_scope.cancel()


async def test_a_cancelled_put_has_happened_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    entries = chain("main", 200)
    for attempt in range(20):
        path = tmp_path / str(attempt)
        settler = Settler(SettleConfig(), path)
        settler.start("main", 0, b"")
        async with trio.open_nursery() as nursery:
            await nursery.start(settler.run)
            with trio.move_on_after(attempt * 0.0005) as scope:
                await settler.put(entries)
            released = settler.status().strands[0].released
            assert released in (0, 200)
            assert scope.cancelled_caught == (released == 0)
            nursery.cancel_scope.cancel()
        spool = Spool(path)
        assert sum(map(len, spool.recover({}))) == released
        spool.close()


def test_a_spool_of_another_order_is_refused(tmp_path: Path) -> None:
    Spool(tmp_path / "spool").close()
    with pytest.raises(Misuse, match="another order"):
        Spool(tmp_path / "spool", timed=True)
