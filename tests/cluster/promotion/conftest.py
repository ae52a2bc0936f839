"""Regions of a test's own; what they leave in the server is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.promotion.world import Region


@pytest.fixture
def new_region(new_database: Callable[[], str], tmp_path: Path) -> Iterator[Callable[..., Region]]:
    """Makes a region with an empty database, with these options of its source."""
    regions: list[Region] = []

    def make(**options: object) -> Region:
        regions.append(Region(tmp_path, new_database(), **options))
        return regions[-1]

    yield make
    for region in regions:
        region.close()
