"""Copies are counted from the first moment on, however many regions ask at once."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing
from starlette.requests import Request

from replicator.errors import Rejected
from replicator.format.position import Position, genesis
from replicator.pipeline.copies.serve import COPIES_LIMIT, Copies
from replicator.pipeline.replicas.moments import Moment
from replicator.storage.journal.store import Journal


class SlowMoments:
    """Moments that are long in coming."""

    async def pause(self, seconds: float) -> Position:
        return genesis("main")

    def release(self) -> None:
        pass

    async def fix(self, at: int | None) -> Moment:
        await trio.sleep_forever()
        raise AssertionError


async def test_those_whose_moment_is_being_fixed_count(tmp_path: Path) -> None:
    copies = Copies(Journal(tmp_path / "journal.db"), "main", SlowMoments(), 60.0)
    refused: list[str] = []

    async def begin() -> None:
        request = Request({"type": "http", "method": "POST", "path": "/v1/copy", "query_string": b"", "headers": []})
        try:
            await copies._begin(request)
        except Rejected as error:
            refused.append(error.reason)

    async with trio.open_nursery() as nursery:
        for _ in range(COPIES_LIMIT + 2):
            nursery.start_soon(begin)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert refused == ["too_many_copies"] * 2
