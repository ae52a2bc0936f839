"""Writers that wait, on a virtual clock: who is woken, who is sent away, and what a stopped process may not think."""

from __future__ import annotations

import logging
import math
from typing import Literal

import pytest
import trio
import trio.testing

from replicator.errors import OutcomeUnknown
from replicator.pipeline.acknowledge import Acknowledgement, AcknowledgeRule


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


class Writers:
    """Starts writers and remembers what they heard, in order."""

    def __init__(self, acknowledgement: Acknowledgement, nursery: trio.Nursery) -> None:
        self.acknowledgement = acknowledgement
        self.nursery = nursery
        self.answered: list[int] = []
        self.unknown: list[tuple[int, float]] = []
        self.until = math.inf  # of the right to write

    def start(self, *sequences: int) -> None:
        for sequence in sequences:
            self.nursery.start_soon(self._write, sequence)

    async def _write(self, sequence: int) -> None:
        try:
            await self.acknowledgement.wait(sequence, lambda: self.until - trio.current_time())
            self.answered.append(sequence)
        except OutcomeUnknown:
            self.unknown.append((sequence, trio.current_time()))

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()


def new(missing: Literal["wait", "degrade"] = "wait", count: int = 1, head: int = 0) -> Acknowledgement:
    return Acknowledgement(AcknowledgeRule(count, missing, 10.0, 10.0), head)


async def test_a_report_wakes_those_it_covers_and_no_other(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        writers = Writers(new(count=2), nursery)
        acknowledgement = writers.acknowledgement
        released: list[int] = []
        acknowledgement.on_released = released.append
        writers.start(*range(1, 101))
        acknowledgement.stored(100)
        await writers.settle()
        acknowledgement.reported("eu", 60)
        await writers.settle()
        assert writers.answered == []
        acknowledgement.reported("us", 40)
        await writers.settle()
        assert sorted(writers.answered) == list(range(1, 41))
        writers.start(7)
        await writers.settle()
        assert writers.answered[-1] == 7, "who comes late does not wait"
        acknowledgement.reported("us", 100)
        acknowledgement.reported("ap", 100)
        await writers.settle()
        assert len(writers.answered) == 101
        assert released == [40, 60, 100]
        assert await acknowledgement.wait(50) == 3
        assert acknowledgement.view().waiting == 0


async def test_a_report_of_what_is_not_known_to_be_stored_yet_counts_once_it_is() -> None:
    """The feed may send a block before the one who stored it has said so."""
    acknowledgement = new()
    acknowledgement.reported("eu", 5)
    released: list[int] = []
    acknowledgement.on_released = released.append
    acknowledgement.stored(3)
    acknowledgement.stored(5)
    assert released == [3, 5]


async def test_patience_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        writers = Writers(new(), nursery)
        writers.acknowledgement.stored(1)
        writers.start(1)
    assert writers.unknown == [(1, 10.0)]


async def test_the_right_to_write_ends_first_or_is_prolonged(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        writers = Writers(new(), nursery)
        writers.acknowledgement.stored(1)
        writers.until = 3.0
        writers.start(1, 1)
        await trio.sleep(2.0)
        writers.until = 5.0
        await trio.sleep(2.0)
        assert writers.unknown == []
    assert writers.unknown == [(1, 5.0)] * 2


async def test_a_report_behind_the_end_of_the_right_answers_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        writers = Writers(new(), nursery)
        writers.acknowledgement.stored(1)
        writers.start(1)
        await writers.settle()
        writers.until = -1.0  # by another clock: the machine was suspended
        writers.acknowledgement.reported("eu", 1)
    assert (writers.answered, len(writers.unknown)) == ([], 1)


async def test_nothing_is_released_once_it_is_stopped(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        writers = Writers(new("degrade"), nursery)
        acknowledgement = writers.acknowledgement
        released: list[int] = []
        acknowledgement.on_released = released.append
        nursery.start_soon(acknowledgement.run)
        acknowledgement.stored(1)
        writers.start(1)
        await writers.settle()
        acknowledgement.stop("the ledger has moved")
        acknowledgement.reported("eu", 1)
        writers.start(1)
        await trio.sleep(60)  # long enough to degrade
        assert released == []
        assert [sequence for sequence, _ in writers.unknown] == [1, 1]
        nursery.cancel_scope.cancel()


async def test_degraded_it_answers_and_says_so(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        writers = Writers(new("degrade"), nursery)
        acknowledgement = writers.acknowledgement
        changes: list[str] = []
        acknowledgement.on_change = changes.append
        nursery.start_soon(acknowledgement.run)
        acknowledgement.stored(1)
        writers.start(1)
        await trio.sleep(10.9)
        assert writers.answered == [1], "before its patience, which is longer, ends"
        assert acknowledgement.view().degraded
        acknowledgement.reported("eu", 1)
        await trio.sleep(10)
        assert changes == ["degraded", "restored"]
        nursery.cancel_scope.cancel()
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_writers_that_wait_are_said_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    acknowledgement = new()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acknowledgement.run)
        acknowledgement.stored(1)
        await trio.sleep(60)
        acknowledgement.reported("eu", 1)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_a_process_that_was_stopped_was_not_let_down_by_anybody(mock_clock: trio.testing.MockClock) -> None:
    """Time jumps, as it does for a process behind SIGCONT: regions have a whole patience from then on."""
    acknowledgement = new("degrade")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acknowledgement.run)
        await trio.testing.wait_all_tasks_blocked()
        acknowledgement.stored(1)
        mock_clock.jump(3600)
        await trio.testing.wait_all_tasks_blocked()
        assert not acknowledgement.view().degraded
        for _ in range(25):
            mock_clock.jump(0.5)
            await trio.testing.wait_all_tasks_blocked()
        assert acknowledgement.view().degraded
        nursery.cancel_scope.cancel()


async def test_those_who_left_leave_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    acknowledgement = new()
    acknowledgement.stored(1)
    for start in range(2, 2000, 200):
        async with trio.open_nursery() as nursery:
            writers = Writers(acknowledgement, nursery)
            writers.start(*range(start, start + 200))
            await writers.settle()
            nursery.cancel_scope.cancel()
    assert acknowledgement.view().waiting == 0
    assert len(acknowledgement._order) < 200
