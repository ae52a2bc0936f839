"""Writers that wait until enough other regions have their block.

Guarantee: whoever waits is woken by the report that completes the count, hears *outcome unknown* when its patience or
its right to write ends first, and costs an entry in a heap, no task and no timer beyond its own. After ``stop`` nothing
is released any more. A region that goes missing is said loudly, once, and so is its return.

``run`` makes the decisions that time makes: it must run for as long as writers are answered. Time in which this process
did not run does not count: a process that was stopped for a while must hear the regions first. For the trio thread.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable

import trio

from replicator.errors import OutcomeUnknown
from replicator.pipeline.acknowledge.tally import AcknowledgeRule, AcknowledgeTally, Change
from replicator.pipeline.acknowledge.view import AcknowledgeView

TICKS_A_PERIOD = 20  # looks within degrade_after
STALE_LIMIT = 64  # entries of those who left, beside which the heap is not yet worth cleaning

log = logging.getLogger("replicator")


class _Waiter:
    """The writers that wait for one sequence: how many, and the event that wakes them."""

    __slots__ = ("number", "released")

    def __init__(self) -> None:
        self.number = 0
        self.released = trio.Event()


class Acknowledgement:
    """What the writers of one strand wait for, during one time of this region as its primary. ``on_released`` hears up
    to which sequence writers may be told, each time that it grows; ``on_change`` when the primary degrades or is
    restored."""

    def __init__(self, rule: AcknowledgeRule, head: int) -> None:
        self.rule = rule
        self.on_released: Callable[[int], None] = lambda sequence: None
        self.on_change: Callable[[Change], None] = lambda change: None
        self._tally = AcknowledgeTally(rule, head, 0.0)
        self._heard_seconds = 0.0  # time in which reports could be heard
        self._looked_at = trio.current_time()
        self._tick_seconds = rule.degrade_after_seconds / TICKS_A_PERIOD
        self._waiters: dict[int, _Waiter] = {}
        self._order: list[int] = []  # a heap of the sequences in _waiters, and of some whose writers left: see _leave
        self._released = 0
        self._stopped = ""
        self._is_long_wait_logged = False

    async def run(self) -> None:
        """Look at the regions again and again; for ever."""
        while True:
            await trio.sleep(self._tick_seconds)
            self._tick()

    def stored(self, sequence: int) -> None:
        """Everything up to ``sequence`` is durable here."""
        self._tally.store(sequence, self._now())
        self._release()

    def reported(self, region: str, sequence: int) -> None:
        """A region says that it has everything up to ``sequence``, on this chain, durably."""
        self._tally.report(region, sequence)
        self._release()

    async def wait(self, sequence: int, left_seconds: Callable[[], float] = lambda: math.inf) -> int:
        """Wait until enough regions have everything up to ``sequence``; how many that are. ``left_seconds`` is how long
        this region may yet write. Raises OutcomeUnknown: the block is durable here, and may or may not outlive this
        region."""
        until = trio.current_time() + self.rule.patience_seconds
        waiter = self._waiters.get(sequence)
        if waiter is None:
            waiter = self._waiters[sequence] = _Waiter()
            heapq.heappush(self._order, sequence)
        waiter.number += 1
        self._release()  # the reports may have come before the writer did
        try:
            while not waiter.released.is_set():
                self._check(until, left_seconds)
                with trio.move_on_at(min(until, trio.current_time() + left_seconds())):
                    await waiter.released.wait()
            self._check(math.inf, left_seconds)  # ``stop`` wakes, too; and the right to write may have ended just now
            return self._tally.having(sequence)
        finally:
            self._leave(sequence, waiter)

    def stop(self, why: str) -> None:
        """Release nothing from now on. Those who wait, and who ask later, hear ``why`` the outcome is not known."""
        self._stopped = why
        self._looked_at = trio.current_time()
        for waiter in self._waiters.values():
            waiter.released.set()

    def view(self) -> AcknowledgeView:
        """The present state, for status and metrics."""
        tally = self._tally
        waiting = sum(waiter.number for waiter in self._waiters.values())
        age = tally.age_seconds(self._now())
        return AcknowledgeView(self.rule.count, tally.acknowledged, tally.degraded, waiting, age, dict(tally.reports))

    def _check(self, until: float, left_seconds: Callable[[], float]) -> None:
        """Raise OutcomeUnknown where an answer would be too late."""
        if self._stopped:
            raise OutcomeUnknown(self._stopped)
        if left_seconds() <= 0:
            raise OutcomeUnknown("the right to write ended before enough regions had it")
        if trio.current_time() >= until:
            seconds = self.rule.patience_seconds
            raise OutcomeUnknown(f"{self.rule.count} other regions did not have it within {seconds:.1f} s")

    def _leave(self, sequence: int, waiter: _Waiter) -> None:
        waiter.number -= 1
        if waiter.number == 0 and self._waiters.get(sequence) is waiter:
            del self._waiters[sequence]
            # A heap gives up only its smallest entry, so sequences that nobody waits for stay in it. It is made anew
            # when they are the larger part: at a cost that their leaving has paid for.
            if len(self._order) > 2 * len(self._waiters) + STALE_LIMIT:
                self._order = sorted(self._waiters)

    def _release(self) -> None:
        """Wake those whose sequence is released."""
        if self._stopped:
            return
        released = self._tally.released
        while self._order and self._order[0] <= released:
            waiter = self._waiters.pop(heapq.heappop(self._order), None)
            if waiter is not None:
                waiter.released.set()
        if released > self._released:
            self._released = released
            self.on_released(released)

    def _now(self) -> float:
        """The seconds in which reports could be heard. What passed since the last tick counts up to twice its length:
        beyond that this process was stopped, and the reports of that time lie unread."""
        since = trio.current_time() - self._looked_at
        return self._heard_seconds + min(since, 2 * self._tick_seconds)

    def _tick(self) -> None:
        now = self._now()
        self._heard_seconds, self._looked_at = now, trio.current_time()
        change = None if self._stopped else self._tally.look(now)
        if change is not None:
            self._log_change(change)
            self._release()
            self.on_change(change)
        self._log_long_wait(now)

    def _log_change(self, change: Change) -> None:
        tally, rule = self._tally, self.rule
        if change == "restored":
            log.warning("acknowledgement: %d other regions have everything again", rule.count)
            return
        log.error(
            "acknowledgement DEGRADED: fewer than %d other regions have what was written %.1f s ago (%s): writers are"
            " answered without them, and what is written now may be lost with this region",
            rule.count,
            rule.degrade_after_seconds,
            _reports_text(tally.reports),
        )

    def _log_long_wait(self, now: float) -> None:
        """Where writers wait for as long as it takes, the log says so, once, and when that is over."""
        if self.rule.missing == "degrade" or self._stopped:
            return
        is_long = self._tally.age_seconds(now) >= self.rule.degrade_after_seconds
        if is_long and not self._is_long_wait_logged:
            message = "acknowledgement: writers wait: fewer than %d other regions have sequence %d (%s)"
            log.error(message, self.rule.count, self._tally.acknowledged + 1, _reports_text(self._tally.reports))
        elif self._is_long_wait_logged and not is_long:
            log.warning("acknowledgement: %d other regions have everything again", self.rule.count)
        self._is_long_wait_logged = is_long


def _reports_text(reports: dict[str, int]) -> str:
    return ", ".join(f"{region} is at {sequence}" for region, sequence in sorted(reports.items())) or "nobody reports"
