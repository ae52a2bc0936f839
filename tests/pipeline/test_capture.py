"""What a source hears of its blocks while other regions have to have them: nothing early, nothing after the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from replicator.format.block import Draft
from replicator.format.statement import pack_message
from replicator.pipeline.acknowledge import Acknowledgement, AcknowledgeRule
from replicator.pipeline.capture import Capture
from replicator.pipeline.sources.base import Sink, SourceReport, SourceState
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal

STRAND = "main"


class Numbers:
    """A source whose ledger is the numbers; it sends those that a test lets it, one a transaction."""

    def __init__(self) -> None:
        self.report = SourceReport("postgres")
        self.heard: list[str] = []
        self._send, self._numbers = trio.open_memory_channel[int](100)

    async def write(self, *numbers: int) -> None:
        for number in numbers:
            await self._send.send(number)

    def origin_of(self, state: SourceState) -> str | None:
        return state.origin

    def acknowledge(self, origin: str) -> None:
        self.heard.append(origin)

    async def run(self, state: SourceState, sink: Sink) -> None:
        async for number in self._numbers:
            await sink.send([Draft(f"tx{number}", str(number), number, 0, 1, pack_message("n", b"%d" % number))])


class Region:
    """A primary that captures from numbers, with a process' worth of memory."""

    def __init__(self, journal: Journal) -> None:
        self.source = Numbers()
        self.tail = JournalHead(journal.head(STRAND))
        self.acknowledgement = Acknowledgement(AcknowledgeRule(1), self.tail.position.sequence)
        self.capture = Capture(self.source, journal, self.tail, 1, lambda blocks: None, self.acknowledgement)

    async def write(self, *numbers: int) -> None:
        """Returns when they are durable here."""
        await self.source.write(*numbers)
        await self.tail.beyond(numbers[-1] - 1)
        await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.open()
    return journal


async def test_a_source_hears_of_what_another_region_has(journal: Journal) -> None:
    region = Region(journal)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(region.capture.run_once)
            await region.write(1, 2, 3)
            assert (region.source.heard, region.source.report.stored) == ([], "3")
            region.acknowledgement.reported("eu", 2)
            assert region.source.heard == ["2"]
            await region.write(4)
            region.acknowledgement.reported("eu", 4)
            assert region.source.heard == ["2", "4"]
            nursery.cancel_scope.cancel()


async def test_a_process_that_starts_confirms_nothing_that_nobody_may_have(journal: Journal) -> None:
    first = Region(journal)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.capture.run_once)
            await first.write(1, 2)
            nursery.cancel_scope.cancel()
        again = Region(journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.capture.run_once)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert again.source.heard == []
            again.acknowledgement.reported("eu", 1)
            assert again.source.heard == []
            again.acknowledgement.reported("eu", 2)
            assert again.source.heard == ["2"]
            nursery.cancel_scope.cancel()


async def test_a_run_that_begins_again_goes_on_with_what_is_released(journal: Journal) -> None:
    """The stream broke; the regions reported meanwhile."""
    region = Region(journal)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(region.capture.run_once)
            await region.write(1, 2, 3)
            nursery.cancel_scope.cancel()
        region.acknowledgement.reported("eu", 3)
        region.source.heard.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(region.capture.run_once)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert region.source.heard == ["3"]
            nursery.cancel_scope.cancel()


async def test_nothing_of_an_epoch_that_has_ended_is_confirmed(journal: Journal) -> None:
    region = Region(journal)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(region.capture.run_once)
            await region.write(1)
            region.acknowledgement.stop("the ledger has moved")
            region.acknowledgement.reported("eu", 1)
            await region.write(2)
            region.acknowledgement.reported("eu", 2)
            assert region.source.heard == []
            nursery.cancel_scope.cancel()
