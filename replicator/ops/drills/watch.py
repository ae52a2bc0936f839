"""Watching over a drill: the regions, the stop rule, and whoever tells it to stop.

Guarantee: each region is looked at by a task of its own, all the time. The event ends at once when it has to; a second
signal gives up waiting for what comes behind it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import trio

from replicator.ops.drills.canary import Canaries
from replicator.ops.drills.regions import DeploymentRegions
from replicator.ops.drills.rules.observations import RegionObservations
from replicator.ops.drills.rules.plan import StopRule
from replicator.ops.drills.rules.safety import stop_reason

POLL_SECONDS = 0.05
GUARD_SECONDS = 0.1
LOOKS_SECONDS = 10.0

log = logging.getLogger("replicator.drills")


class DrillWatch:
    """The watch of one drill. ``event``, ``back`` and ``end`` are the scopes of its phases; ``stopped`` says why the
    event was ended early, ``failed`` what went wrong."""

    def __init__(self, regions: DeploymentRegions, observations: RegionObservations, rule: StopRule) -> None:
        self.event, self.back, self.end = trio.CancelScope(), trio.CancelScope(), trio.CancelScope()
        self.stopped = self.failed = ""
        self._regions, self._observations, self._rule = regions, observations, rule

    async def begin(self, nursery: trio.Nursery) -> None:
        """Look at the regions from now on; returns when each was looked at once, or did not answer for long."""
        for name in self._regions.places:
            nursery.start_soon(self._look, name)
        await self.until(lambda: len(self._observations.latest) == len(self._regions.places), LOOKS_SECONDS)

    async def guard(self, canaries: Canaries) -> None:
        """End the event when more is at risk than the plan allows, or nothing can be measured."""
        while not self.stopped:
            if canaries.refused:
                self.fail(f"a canary is refused: {canaries.refused}")
                self.event.cancel()
                return
            if reason := stop_reason(self._rule, self._observations.latest, canaries.blocked_seconds):
                self._stop(reason)
            await trio.sleep(GUARD_SECONDS)

    async def signals(self) -> None:
        """SIGINT and SIGTERM end the event; once more, the waiting for what comes behind it, too."""
        is_second = False
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if is_second:
                    log.warning("%s again: waits for nothing any more", signal.Signals(number).name)
                    self.back.cancel()
                    self.end.cancel()
                is_second = True
                self._stop(f"told to by {signal.Signals(number).name}")

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether it held within so many seconds; looked at more often than the regions are."""
        with trio.move_on_after(seconds):
            while not holds():  # noqa: ASYNC110  # it is other machines that change
                await trio.sleep(POLL_SECONDS / 5)
            return True
        return False

    def fail(self, why: str) -> None:
        """Something went wrong that the report has to tell."""
        log.error("%s", why)
        self.failed = "; ".join(filter(None, (self.failed, why)))

    def _stop(self, reason: str) -> None:
        if not self.stopped:
            log.warning("the drill stops: %s", reason)
        self.stopped = self.stopped or reason
        self.event.cancel()

    async def _look(self, name: str) -> None:
        while True:
            self._observations.add(await self._regions.look(name))
            await trio.sleep(POLL_SECONDS)
