"""A switchover that is cut off at any of its steps, by the death of either region, still ends well: one region leads,
the other follows, and nothing that was acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.cluster.failover.prefixes import cut_off_everywhere
from tests.cluster.failover.regions import Region, cluster, converged, has, order, running, until, write


async def _switchover(directory: Path, victim: str | None, dies_at: int | None) -> dict[str, Region]:
    """A switchover in which the victim dies at its n-th step behind the order, and is started again."""
    regions = cluster(directory)
    paris, tokyo = regions["paris"], regions["tokyo"]
    async with running(regions) as nursery:
        await until(lambda: paris.leads and tokyo.state() == "following", "paris leads")
        await write(paris.url, "before")
        await until(lambda: paris.head() == tokyo.head(), "tokyo has it")
        for region in regions.values():
            region.steps.clear()
        if victim is not None:
            regions[victim].dies_at = dies_at
        await order(paris.url, verb="switchover", target="tokyo", seconds=8.0)
        if victim is not None:
            with trio.move_on_after(8.0):
                await regions[victim].ended()
            if regions[victim].died is not None:
                await regions[victim].start(nursery)
        else:
            await until(lambda: tokyo.leads, "tokyo leads")
        await converged(regions)
        await write(paris.url, "after")
        await converged(regions)
        for region in regions.values():
            assert await has(region.url, "before")
            assert await has(region.url, "after")
    return regions


@pytest.mark.slow  # some forty clusters
async def test_a_switchover_that_is_cut_off_anywhere_ends_well(tmp_path: Path) -> None:
    await cut_off_everywhere(tmp_path, _switchover, 20)
