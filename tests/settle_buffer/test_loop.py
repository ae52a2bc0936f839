"""The trio loop with a real spool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from settle_buffer import Conflict, Entry, Event, GapRequest, Misuse, Release, SettleConfig, SpoolSetAside
from settle_buffer.loop import Settler
from tests.settle_buffer.makers import chain, of_kind


def started(path: Path, events: list[Event], config: SettleConfig | None = None, at: int = 0) -> Settler:
    settler = Settler(config or SettleConfig(), path / "spool", notify=events.append)
    settler.start("main", at, b"")
    return settler


async def receive(settler: Settler, count: int) -> list[Entry]:
    out: list[Entry] = []
    with trio.fail_after(20):
        while len(out) < count:
            release = await settler.releases.receive()
            assert isinstance(release, Release)
            out += release.entries
    return out


async def test_entries_go_through_and_are_forgotten_when_acknowledged(tmp_path: Path) -> None:
    entries = chain("main", 1_000)
    settler = started(tmp_path, [])
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        for start in range(0, 1_000, 100):
            await settler.put(entries[start : start + 100])
        assert await receive(settler, 1_000) == entries
        await settler.acknowledge("main", 1_000)
        nursery.cancel_scope.cancel()
    settler = started(tmp_path, [])
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            settler.releases.receive_nowait()
        nursery.cancel_scope.cancel()


async def test_what_was_not_acknowledged_is_released_again_after_a_restart(tmp_path: Path) -> None:
    entries = chain("main", 100)
    settler = started(tmp_path, [])
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put(entries[:50])
        await settler.put(entries[60:])
        assert await receive(settler, 50) == entries[:50]
        await settler.acknowledge("main", 20)
        nursery.cancel_scope.cancel()
    settler = started(tmp_path, [], at=20)
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put(entries[50:60])
        assert await receive(settler, 80) == entries[20:]
        nursery.cancel_scope.cancel()


async def test_a_gap_is_asked_for_by_the_timer(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    entries = chain("main", 10)
    events: list[Event] = []
    settler = started(tmp_path, events)
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put(entries[5:])
        assert of_kind(events, GapRequest) == []
        await trio.sleep(2.5)
        assert of_kind(events, GapRequest) == [GapRequest("main", 1, 5, 1)]
        await settler.put(entries[:5])
        assert await receive(settler, 10) == entries
        nursery.cancel_scope.cancel()


async def test_a_backlog_larger_than_memory_comes_back_in_order(tmp_path: Path) -> None:
    entries = chain("main", 5_000)
    settler = started(tmp_path, [], SettleConfig(resident_entries=300, load_entries=128))
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        for start in range(4_900, 0, -100):
            await settler.put(entries[start : start + 100])
        assert settler.status().resident_entries <= 300
        nursery.start_soon(settler.put, entries[:100])
        assert await receive(settler, 5_000) == entries
        assert settler.status().held_entries == 0
        nursery.cancel_scope.cancel()


async def test_a_put_waits_while_the_buffer_is_full_unless_it_closes_a_hole(tmp_path: Path) -> None:
    entries = chain("main", 40)
    settler = started(tmp_path, [], SettleConfig(entries_limit=10))
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put(entries[1:20])
        waiting = trio.Event()

        async def put_more() -> None:
            await settler.put(entries[20:])
            waiting.set()

        nursery.start_soon(put_more)
        await trio.testing.wait_all_tasks_blocked()
        assert not waiting.is_set()
        await settler.put(entries[:1])
        assert await receive(settler, 40) == entries
        assert waiting.is_set()
        nursery.cancel_scope.cancel()


async def test_a_put_waits_for_the_consumers_acknowledgement(tmp_path: Path) -> None:
    entries = chain("main", 40, body_bytes=1_000)
    settler = started(tmp_path, [], SettleConfig(unacknowledged_bytes=10_000))
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put(entries[:20])
        assert await receive(settler, 20) == entries[:20]
        nursery.start_soon(settler.put, entries[20:])
        await trio.testing.wait_all_tasks_blocked()
        assert settler.status().strands[0].released == 20
        await settler.acknowledge("main", 20)
        assert await receive(settler, 20) == entries[20:]
        nursery.cancel_scope.cancel()


async def test_acknowledging_what_was_not_released_is_refused(tmp_path: Path) -> None:
    settler = started(tmp_path, [])
    with pytest.raises(Misuse, match="not released"):
        await settler.acknowledge("main", 1)


async def test_a_waiver_outlives_a_restart_and_late_entries_are_kept(tmp_path: Path) -> None:
    entries = chain("main", 10)
    settler = started(tmp_path, [])
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put(entries[:3] + entries[5:])
        await settler.waive("main", 4, 5, "ann", "lost")
        assert await receive(settler, 8) == entries[:3] + entries[5:]
        await settler.put(entries[3:4])
        await settler.acknowledge("main", 2)
        nursery.cancel_scope.cancel()
    settler = started(tmp_path, [], at=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        assert settler.status().strands[0].stopped == "late"
        ((number, late),) = await settler.late()
        assert late == entries[3]
        await settler.settle_late(number)
        await settler.resume("main")
        assert await receive(settler, 6) == entries[2:3] + entries[5:]
        nursery.cancel_scope.cancel()


async def test_a_damaged_spool_is_named_and_a_new_one_begun(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"this is no database" * 1_000)
    events: list[Event] = []
    settler = started(tmp_path, events)
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        assert of_kind(events, SpoolSetAside) == [SpoolSetAside(str(tmp_path / "spool.damaged-1"))]
        await settler.put(chain("main", 3))
        assert await receive(settler, 3) == chain("main", 3)
        nursery.cancel_scope.cancel()


async def test_a_put_after_the_end_is_refused(tmp_path: Path) -> None:
    settler = started(tmp_path, [])
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        nursery.cancel_scope.cancel()
    with pytest.raises(Misuse, match="not running"):
        await settler.put(chain("main", 1))


def test_the_package_needs_nothing_but_the_standard_library() -> None:
    program = (
        "import sys; sys.modules['trio'] = None\n"
        "import settle_buffer\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not roots & {'replicator', 'msgpack', 'sqlite_utils', 'httpx'}, roots\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


async def test_copies_of_what_waits_on_disk_do_not_fill_the_disk(tmp_path: Path) -> None:
    entries = chain("main", 500, body_bytes=2_000)
    config = SettleConfig(resident_entries=1, bytes_limit=4_000_000)
    settler = started(tmp_path, [], config)
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)

        async def put_for_ever() -> None:
            while True:
                await settler.put(entries[1:])

        with trio.move_on_after(1):
            await put_for_ever()
        assert (tmp_path / "spool").stat().st_size < 10_000_000
        nursery.start_soon(settler.put, entries[:1])
        assert await receive(settler, 500) == entries
        await settler.acknowledge("main", 500)
        with trio.fail_after(10):
            await settler.put(entries[1:])
        nursery.cancel_scope.cancel()


async def test_runs_that_wait_for_the_consumer_are_joined_but_never_across_a_waiver(tmp_path: Path) -> None:
    entries = chain("main", 100)
    settler = started(tmp_path, [])
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        for entry in entries[:49]:
            await settler.put([entry])
        await settler.put(entries[50:])
        await settler.waive("main", 50, 50, "ann", "lost")
        releases: list[Release] = []
        while sum(len(release.entries) for release in releases) < 99:
            release = await settler.releases.receive()
            assert isinstance(release, Release)
            assert [entry.sequence for entry in release.entries] == list(
                range(release.entries[0].sequence, release.entries[-1].sequence + 1)
            )
            releases.append(release)
        assert len(releases) < 20
        nursery.cancel_scope.cancel()


async def test_straight_entries_are_durable_with_the_consumer_when_put_returns(tmp_path: Path) -> None:
    entries = chain("main", 60)
    steps: list[str] = []
    settler = Settler(SettleConfig(straight=True), tmp_path / "spool", probe=steps.append)
    settler.start("main", 0, b"")
    returned: list[int] = []

    async def put(first: int, last: int) -> None:
        await settler.put(entries[first - 1 : last])
        returned.append(last)

    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        nursery.start_soon(put, 1, 20)
        assert await receive(settler, 20) == entries[:20]
        await settler.acknowledge("main", 19)
        await trio.testing.wait_all_tasks_blocked()
        assert returned == []
        await settler.acknowledge("main", 20)
        await trio.testing.wait_all_tasks_blocked()
        assert returned == [20]
        assert "before append" not in steps
        await put(31, 40)  # not next: through the spool, as always
        nursery.start_soon(put, 21, 30)
        assert await receive(settler, 20) == entries[20:40]
        await put(41, 50)  # next, but the consumer has not acknowledged what it has
        assert steps.count("after append") == 3
        nursery.cancel_scope.cancel()
    settler = started(tmp_path, [], at=20)
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        assert await receive(settler, 30) == entries[20:50]
        nursery.cancel_scope.cancel()


async def test_what_contradicts_does_not_go_straight(tmp_path: Path) -> None:
    entries = chain("main", 10)
    events: list[Event] = []
    settler = Settler(SettleConfig(straight=True), tmp_path / "spool", notify=events.append)
    settler.start("main", 0, b"")
    async with trio.open_nursery() as nursery:
        await nursery.start(settler.run)
        await settler.put([*entries[:4], entries[4]._replace(link=b"another")])
        assert await receive(settler, 4) == entries[:4]
        assert [event.sequence for event in of_kind(events, Conflict)] == [5]
        nursery.cancel_scope.cancel()


async def test_a_straight_put_whose_consumer_never_had_it_is_told_so(tmp_path: Path) -> None:
    settler = Settler(SettleConfig(straight=True), tmp_path / "spool")
    settler.start("main", 0, b"")
    told = trio.Event()

    async def put() -> None:
        with pytest.raises(Misuse, match="before the consumer"):
            await settler.put(chain("main", 3))
        told.set()

    async with trio.open_nursery() as putting:
        async with trio.open_nursery() as nursery:
            await nursery.start(settler.run)
            putting.start_soon(put)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await told.wait()


def test_only_the_order_of_sequences_can_go_straight() -> None:
    with pytest.raises(Misuse, match="straight needs the order sequence"):
        SettleConfig(order="time", straight=True)
