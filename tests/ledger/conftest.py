"""A region for the tests that ask over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.ledger.region import Clock, Region, api, running, served


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def region(tmp_path: Path, clock: Clock) -> AsyncIterator[Region]:
    async with running(Region(tmp_path, clock)) as region:
        yield region


@pytest.fixture
async def client(region: Region) -> AsyncIterator[httpx.AsyncClient]:
    async with served(api(region)) as client:
        yield client
