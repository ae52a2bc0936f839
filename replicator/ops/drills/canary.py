"""Canaries: small writes at a steady rate through the whole path, and reads of them in every region.

Guarantee: each turn begins a new canary, whatever became of those before, as new customers come whether or not others
wait: so the longest time without an acknowledged write is that of the service, not of a writer who was told to come
back later. A canary follows the primary, does as it is told (another region, Retry-After), and is sent again under its
key until it is acknowledged or the drill ends. At most ``WAITING`` wait at a time; turns beyond it are counted.
"""

from __future__ import annotations

import random
import urllib.parse
from collections.abc import Callable

import trio

from replicator.errors import Corrupt, ReplicatorError, Unavailable
from replicator.ops.drills.canary_writers import (
    ANSWER_LIMIT_BYTES,
    CanaryWriter,
    WriteAcknowledged,
    WriteNotHere,
    WriteRetryLater,
    WriteUnknown,
    key_of,
)
from replicator.ops.drills.regions import DeploymentRegions
from replicator.ops.drills.rules.measures import Canary
from replicator.ops.drills.rules.plan import CanaryPlan
from replicator.transport.client import Bounds

WAITING = 1_000
LIMIT = 500_000
PAUSE_LEAST_SECONDS, PAUSE_MOST_SECONDS = 0.02, 0.5
LOOK_SECONDS = 0.2  # between two reads in a region
VISIBLE_SECONDS = 5.0
READ_SECONDS = 10.0
READERS = 16

_SAFE = "-_.~"


class Canaries:
    """The canaries of one drill. The first are sent to the region ``first``."""

    def __init__(
        self,
        drill: str,
        plan: CanaryPlan,
        regions: DeploymentRegions,
        writing: CanaryWriter,
        first: str,
        clock: Callable[[], float],
    ) -> None:
        self.acknowledged: list[Canary] = []
        self.begun = 0
        self.refused = ""  # why canaries cannot be written at all
        self.not_sent = 0
        self.visible: dict[str, list[float]] = {name: [] for name in regions.places}
        self._drill, self._plan, self._regions, self._writing = drill, plan, regions, writing
        self._clock = clock
        self._names = list(regions.places)
        self._guess = first
        self._waiting = 0
        self._draws = random.Random(drill)

    async def run(self, stopping: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until told to stop; then those that wait end."""
        async with trio.open_nursery() as readers:
            for name in self._names:
                readers.start_soon(self._read, name)
            task_status.started()
            async with trio.open_nursery() as writers:
                await self._turns(writers, stopping)
                writers.cancel_scope.deadline = trio.current_time() + 2 * self._plan.attempt_seconds
            readers.cancel_scope.cancel()

    @property
    def blocked_seconds(self) -> float:
        """How long ago the last write was acknowledged, while some wait."""
        if not self._waiting:
            return 0.0
        return self._clock() - (self.acknowledged[-1].acked_at if self.acknowledged else 0.0)

    async def _turns(self, writers: trio.Nursery, stopping: trio.Event) -> None:
        due = trio.current_time()
        with trio.CancelScope() as turns:
            writers.start_soon(_cancel_after, stopping, turns)
            while self.begun < LIMIT:
                await trio.sleep_until(due)
                # Turns that were missed are made up for a second at most: after a stall of this machine a burst of
                # them would measure the burst.
                due = max(due + 1 / self._plan.rate, trio.current_time() - 1.0)
                if self._waiting >= WAITING:
                    self.not_sent += 1
                    continue
                self.begun += 1
                writers.start_soon(self._write, self.begun)
            await trio.sleep_forever()

    async def _write(self, number: int) -> None:
        sent_at, attempts, pause = self._clock(), 0, PAUSE_LEAST_SECONDS
        self._waiting += 1
        try:
            while True:
                region = self._guess
                attempts += 1
                try:
                    answer = await self._writing.write(region, number)
                except ReplicatorError as error:
                    self.refused = self.refused or str(error)
                    return
                match answer:
                    case WriteAcknowledged(position):
                        canary = Canary(number, sent_at, self._clock(), region, position, attempts)
                        self.acknowledged.append(canary)
                        return
                    case WriteNotHere(other):
                        self._move_on(region, other)
                    case WriteUnknown():
                        self._move_on(region, None)
                retry_after = answer.seconds if isinstance(answer, WriteRetryLater) else 0.0
                await trio.sleep(max(pause, retry_after))
                pause = min(pause * self._draws.uniform(1.2, 1.8), PAUSE_MOST_SECONDS)
        finally:
            self._waiting -= 1

    def _move_on(self, tried: str, named: str | None) -> None:
        """Take another region for whoever comes next: the one that was named, or simply the next one. A canary knows no
        more than any client does."""
        if self._guess == tried:  # else another canary has moved on already
            self._guess = named or self._names[(self._names.index(tried) + 1) % len(self._names)]

    # -- reading

    async def _read(self, name: str) -> None:
        """Measure how long it takes until what was just acknowledged is visible in a region."""
        last = 0
        while True:
            if self.acknowledged and (newest := self.acknowledged[-1]).number != last:
                last = newest.number
                if await self._becomes_visible(name, newest):
                    self.visible[name].append(self._clock() - newest.acked_at)
            await trio.sleep(LOOK_SECONDS)

    async def _becomes_visible(self, name: str, canary: Canary) -> bool:
        with trio.move_on_after(VISIBLE_SECONDS):
            while True:
                if await self.holds(name, canary.number, canary.position):
                    return True
                await trio.sleep(PAUSE_LEAST_SECONDS)
        return False

    async def holds(self, name: str, number: int, after: str = "") -> bool | None:
        """Whether a region shows a canary; None if it does not say."""
        key = urllib.parse.quote(key_of(self._drill, number), safe=_SAFE)
        table = urllib.parse.quote(self._plan.table.removeprefix("public."), safe=_SAFE)
        query = {"after": after, "timeout": f"{VISIBLE_SECONDS:g}s"} if after else {}
        path, bounds = f"/v1/tables/{table}/documents/{key}", Bounds(READ_SECONDS, ANSWER_LIMIT_BYTES)
        try:
            answer = await self._regions.client(name).exchange("GET", path, query=query, bounds=bounds)
        except (Unavailable, Corrupt):
            return None
        return {200: True, 404: False}.get(answer.status)

    async def held(self, name: str) -> set[int] | None:
        """The numbers of the acknowledged canaries that a region shows; None if it does not say of each."""
        shown: set[int] = set()
        known = True
        numbers = iter([canary.number for canary in self.acknowledged])  # which all readers share

        async def look() -> None:
            nonlocal known
            for number in numbers:
                holds = await self.holds(name, number)
                if holds:
                    shown.add(number)
                known = known and holds is not None

        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(look)
        return shown if known else None

    async def remove(self, leader: str) -> str:
        """Take the canaries out of the ledger; gives what went wrong."""
        try:
            await self._writing.remove(leader)
        except ReplicatorError as error:
            return f"canaries are left in table {self._plan.table}: {error}"
        return ""


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
