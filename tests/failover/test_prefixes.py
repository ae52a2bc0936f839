"""A change of primary that is cut off at any of its steps, by the death of either region, still ends well: one region
leads, the other follows, and nothing that was acknowledged and received is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.failover.regions import Region, cluster, converged, has, order, running, until, write

AT_A_TIME = 5

History = Callable[[Path, str | None, int | None], Awaitable[dict[str, Region]]]


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


async def test_a_switchover_that_is_cut_off_anywhere_ends_well(tmp_path: Path) -> None:
    whole = await _switchover(tmp_path / "whole", None, None)
    assert whole["tokyo"].steps, "tokyo has done something"
    cuts = [(name, place) for name, region in whole.items() for place in range(len(_first(region.steps)))]
    assert len(cuts) > 20, "a switchover has that many steps"
    await _each(tmp_path, cuts, _switchover)


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
        sealed = list((paris.config.region.data_dir / "orphans").glob("*/seal.json"))
        assert len(sealed) == 1, "the orphan is kept"
    return regions


async def test_a_failover_and_a_return_that_are_cut_off_anywhere_end_well(tmp_path: Path) -> None:
    whole = await _failover(tmp_path / "whole", None, None)
    cuts = [(name, place) for name, region in whole.items() for place in range(len(_first(region.steps)))]
    assert len(cuts) > 20, "a failover and a return have that many steps"
    await _each(tmp_path, cuts, _failover)


def _first(steps: list[str]) -> list[str]:
    """The steps up to the last that is not a repetition: waiting repeats some."""
    last = max((place for place, step in enumerate(steps) if step not in steps[:place]), default=-1)
    return steps[: last + 1]


async def _each(directory: Path, cuts: list[tuple[str, int]], history: History) -> None:
    """Every cut in a cluster of its own, some at a time; all that went wrong is told together."""
    limit = trio.CapacityLimiter(AT_A_TIME)
    wrong: list[str] = []

    async def one(victim: str, place: int) -> None:
        async with limit:
            try:
                await history(directory / f"{victim}-{place}", victim, place)
            except Exception as error:
                wrong.append(f"{victim}, cut off at its step {place}: {_leaves(error)}")

    async with trio.open_nursery() as nursery:
        for victim, place in cuts:
            nursery.start_soon(one, victim, place)
    assert not wrong, "\n".join(wrong)


def _leaves(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_leaves(one) for one in error.exceptions)
    return f"{type(error).__name__} {error}"
