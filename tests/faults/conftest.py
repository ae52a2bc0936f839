"""A pair of regions whose files are there to be damaged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.faults.files import BLOCKS
from tests.faults.regions import EMBEDDED, Region, follow, sqlite_replica


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Region, Region]]:
    """A primary and a region that has followed it to the end; both are stopped, and kept as ``whole``."""
    directory = tmp_path_factory.mktemp("files")
    paris = Region(directory, "paris", "primary", EMBEDDED)
    tokyo = Region(directory, "tokyo", "replica", follow(paris.url) + sqlite_replica("data/ledger.db"))
    try:
        paris.start()
        tokyo.start()
        paris.reach_sequence("applied", 1)
        for number in range(BLOCKS - 1):
            assert paris.write(number, 1, filler="x" * 300).status_code == 200
        tokyo.reach_sequence("applied", BLOCKS)
        for region in (paris, tokyo):
            assert region.stop() == 0
            shutil.copytree(region.data, region.directory / "whole")
        yield paris, tokyo
    finally:
        paris.end()
        tokyo.end()


@pytest.fixture
def pair(stopped: tuple[Region, Region]) -> Iterator[tuple[Region, Region]]:
    """The two regions as they were stopped."""
    for region in stopped:
        shutil.rmtree(region.data, ignore_errors=True)
        shutil.copytree(region.directory / "whole", region.data)
    yield stopped
    for region in stopped:
        region.end()
