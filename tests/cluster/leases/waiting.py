"""Waiting for a lease store, as long as a slow machine needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from replicator.cluster.leases.base import Lease, LeaseView
from replicator.errors import Unavailable

DEADLINE_SECONDS = 20.0
T = TypeVar("T")


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """The step, again while a slow machine makes the store late: what every caller does."""
    fault: Unavailable | None = None
    with trio.move_on_after(DEADLINE_SECONDS):
        while True:
            try:
                return await step()
            except Unavailable as error:
                fault = error
            await trio.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_SECONDS:.0f} s: {fault}")


async def vacant(lease: Lease) -> LeaseView:
    """Once nobody holds it any more."""
    with trio.fail_after(DEADLINE_SECONDS):
        while (view := await patiently(lease.look)).holder is not None:  # noqa: ASYNC110  # the store gives no signal
            await trio.sleep(0.02)
    return view
