"""The first block at which two chains differ: a binary search, for a position commits to all history before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


async def first_difference(same: Callable[[int], Awaitable[bool]], equal: int, differs: int) -> int:
    """The first sequence at which two chains differ, which are the same at ``equal`` and not at ``differs``; ``same``
    tells whether they hold one hash at a sequence. It is asked about log2 of their distance times."""
    while differs - equal > 1:
        middle = (equal + differs) // 2
        if await same(middle):
            equal = middle
        else:
            differs = middle
    return differs
