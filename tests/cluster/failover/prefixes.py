"""Cutting a change of primary off at each of its steps: in a cluster of its own each, some at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.cluster.failover.regions import Region

AT_A_TIME = 4

History = Callable[[Path, str | None, int | None], Awaitable[dict[str, Region]]]


async def cut_off_everywhere(directory: Path, history: History, steps: int) -> None:
    """Run the history whole, and then once for each step of each region that took part, which dies there."""
    whole = await history(directory / "whole", None, None)
    cuts = [(name, place) for name, region in whole.items() for place in range(len(_first(region.steps)))]
    assert len(cuts) > steps, "it has that many steps"
    await _each(directory, cuts, history)


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
