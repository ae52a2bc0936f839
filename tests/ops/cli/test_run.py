"""The first copy is shown while it goes: a bar on a terminal, lines in a log."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from replicator.ops.cli.run import show_copy
from replicator.pipeline.sources.base import SourceReport


async def copy(report: SourceReport) -> None:
    """A copy of 25 seconds, begun after one."""
    await trio.sleep(1)
    report.phase, report.copy_rows_estimate = "copying", 1000
    for rows in range(0, 1001, 40):
        report.copied_rows = rows
        await trio.sleep(1)
    report.phase = "streaming"


async def test_a_line_now_and_then_where_there_is_no_terminal(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "replicator")
    report = SourceReport("postgres")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, report)
        await show_copy(report)
    assert caplog.messages[0] == "first copy: 0 rows of about 1,000"
    assert len(caplog.messages) == 4
    assert caplog.messages[-1] == "first copy: 1,000 rows were read"


async def test_it_ends_where_there_is_nothing_to_copy(autojump_clock: MockClock) -> None:
    report = SourceReport("postgres", phase="streaming")
    await show_copy(report)
    assert trio.current_time() == 0
