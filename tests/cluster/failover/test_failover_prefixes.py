"""A failover, and the return of the old primary with an orphan, cut off at any of their steps: one region leads, the
other follows, and the orphan is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.failover.prefixes import cut_off_everywhere
from tests.cluster.failover.regions import Region, cluster, converged, has, running, until, write


async def _failover(directory: Path, victim: str | None, dies_at: int | None) -> dict[str, Region]:
    """The primary is lost with a block that nobody received; the other leads; the old one comes back."""
    regions = cluster(directory)
    paris, tokyo = regions["paris"], regions["tokyo"]
    async with running(regions) as nursery:
        await until(lambda: paris.leads and tokyo.state() == "following", "paris leads")
        await write(paris.url, "before")
        await until(lambda: paris.head() == tokyo.head(), "tokyo has it")
        await tokyo.stop()
        await write(paris.url, "orphan")
        await paris.stop()
        for region in regions.values():
            region.steps.clear()
        if victim is not None:
            regions[victim].dies_at = dies_at
        await tokyo.start(nursery)
        if victim == "tokyo":
            await tokyo.ended()
            await tokyo.start(nursery)
        await until(lambda: tokyo.leads, "tokyo leads")
        await paris.start(nursery)
        if victim == "paris":
            await paris.ended()
            await paris.start(nursery)
        await converged(regions)
        for region in regions.values():
            assert await has(region.url, "before")
            assert not await has(region.url, "orphan")
        sealed = paris.config.region.files.seals()
        assert len(sealed) == 1, "the orphan is kept"
    return regions


@pytest.mark.slow  # some forty clusters
async def test_a_failover_and_a_return_that_are_cut_off_anywhere_end_well(tmp_path: Path) -> None:
    await cut_off_everywhere(tmp_path, _failover, 20)
