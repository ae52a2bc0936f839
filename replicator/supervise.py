"""Running a stage for as long as it can get better.

Guarantee: a stage that meets Unavailable is run again after a jittered, growing wait, and what it waits for is
shown meanwhile; one that meets Halted stays stopped with its reason shown, while the rest of the sidecar (status,
feed, reads) goes on. Anything else is our own fault and takes the process down: it restarts from what is durable.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from replicator.errors import ReplicatorError, Unavailable

RAN_WELL_SECONDS = 30.0
log = logging.getLogger("replicator")


class Trouble(Protocol):
    """Where a stage's troubles are shown."""

    def wait(self, cause: Unavailable) -> None: ...
    def halt(self, cause: ReplicatorError) -> None: ...


class Backoff:
    """Waits that grow from ``least`` to ``most`` seconds, each drawn from the upper half of its range so that many who
    lost the same peer do not come back at the same moment. ``reset`` after a success."""

    def __init__(self, least: float, most: float, draws: random.Random) -> None:
        self._least, self._most, self._draws = least, most, draws
        self._tries = 0

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._tries = 0

    def next(self) -> float:
        """How long to wait now, in seconds."""
        limit = min(self._most, self._least * 2.0 ** min(self._tries, 30))
        self._tries += 1
        return limit * self._draws.uniform(0.5, 1.0)


async def supervise(name: str, run_once: Callable[[], Awaitable[None]], trouble: Trouble, backoff: Backoff) -> None:
    """Run a stage until it halts; returns only by cancellation."""
    logged = ""
    while True:
        started = trio.current_time()
        try:
            await run_once()
            raise AssertionError(f"the stage {name} returned")
        except* ReplicatorError as group:
            cause = first_cause(group)
        # A stage that worked for a while met a new trouble; one that fails at once each time is to be asked less often.
        if trio.current_time() - started > RAN_WELL_SECONDS:
            backoff.reset()
        if not isinstance(cause, Unavailable):
            log.error("%s halted: %s", name, cause)
            trouble.halt(cause)
            await trio.sleep_forever()
        assert isinstance(cause, Unavailable)
        if str(cause) != logged:  # once, not at every try: a database that is away for a night is one line
            logged = str(cause)
            log.warning("%s waits: %s", name, cause)
        trouble.wait(cause)
        await trio.sleep(backoff.next())


def first_cause(group: BaseExceptionGroup[ReplicatorError]) -> ReplicatorError:
    """The error to act on: one that no retry cures, if there is one."""
    leaves: list[ReplicatorError] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(reversed(error.exceptions))
        elif isinstance(error, ReplicatorError):
            leaves.append(error)
    return next((leaf for leaf in leaves if not isinstance(leaf, Unavailable)), leaves[0])
