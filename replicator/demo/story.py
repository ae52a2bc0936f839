"""The course of the demo: start, traffic, a replica killed, the primary killed, an end, a verdict.

Guarantee: the traffic goes on through both kills, and ends only when both sidecars are back, however short a run was
asked for.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Protocol

import trio

from replicator.demo.customers import Customers
from replicator.demo.judge import EVERY_ROW, Check, brief, judge, told, verify_one
from replicator.demo.regions import PRIMARY, REPLICAS, Region, Regions
from replicator.demo.report import Kill, Report, seen_by_customers
from replicator.demo.watch import RegionState, Watch
from replicator.errors import ReplicatorError, Unavailable

START_SECONDS = 60.0
RECOVER_SECONDS = 60.0
SHOW_SECONDS = 0.25
REPLICA_KILLED_AT, PRIMARY_KILLED_AT = 0.3, 0.6  # shares of the time
AWAY = 0.06
AWAY_LIMIT_SECONDS = 2.0
VERIFY_EVERY = 0.15
VERIFY_LEAST_SECONDS = 1.0


class Show(Protocol):
    """Where it is shown."""

    def say(self, line: str) -> None:
        """An event."""

    def figures(self, story: Story) -> None:
        """How it is now; called a few times a second."""


class Story:
    """One run. ``seconds`` is for how long there is traffic."""

    def __init__(self, directory: Path, seconds: float, show: Show) -> None:
        self.directory = directory
        self.seconds = seconds
        self.regions = Regions(directory)
        self.watch = Watch(self.regions)
        self.customers = Customers(self.regions, random.SystemRandom().randrange(2**32))
        self._show = show
        self._kills: list[Kill] = []
        self._live: list[Check] = []

    @property
    def states(self) -> list[RegionState]:
        """The regions as they are now."""
        return list(self.watch.states.values())

    async def tell(self) -> Report:
        """From the start to the verdict. Raises ReplicatorError if it does not come so far."""
        with self.regions.running():
            await self.start()
            traffic_seconds = await self.traffic()
            self._show.say("the traffic has stopped: comparing every row, every cent and every block")
            return await self.verdict(traffic_seconds)

    async def start(self) -> None:
        """All regions answer, and everybody has a wallet."""
        for region in self.regions.all:
            await self.watch.reach(region, 0, START_SECONDS)
        self._show.say(f"status page: {self.regions.primary.url}/ (tokyo {self.regions['tokyo'].url}/,"
                       f" virginia {self.regions['virginia'].url}/)")  # fmt: skip
        await self.customers.open_wallets()

    async def traffic(self) -> float:
        """Customers at work, and what happens meanwhile; for how long it was."""
        started = trio.current_time()
        stopping = trio.Event()
        async with trio.open_nursery() as beside:
            beside.start_soon(self.watch.run)
            beside.start_soon(self._keep_showing)
            beside.start_soon(self._keep_verifying)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.customers.run, stopping)
                await self._kill_both(started)
                await trio.sleep_until(started + self.seconds)
                stopping.set()
            beside.cancel_scope.cancel()
        return trio.current_time() - started

    async def verdict(self, traffic_seconds: float) -> Report:
        """Judge all regions, now that there is no traffic."""
        checks = await judge(self.regions, self.watch, self.customers.books)
        checks += seen_by_customers(self.customers.tally)
        for check in checks:
            if check.what == EVERY_ROW and check.region in self.watch.states:
                self.watch.states[check.region].verified = brief(check.told)
        self._show.figures(self)
        failed_before = [check for check in self._live if not check.passed]
        return Report(
            traffic_seconds,
            self.customers.books,
            self.customers.tally,
            self._kills,
            len(self._live),
            [*checks, *failed_before],
        )

    # -- what happens meanwhile

    async def _kill_both(self, started: float) -> None:
        await trio.sleep_until(started + self.seconds * REPLICA_KILLED_AT)
        replica = self.regions[REPLICAS[0]]
        killed_at = await self._kill(replica)
        await self.watch.reach(replica, self.watch.states[PRIMARY].sequence, RECOVER_SECONDS)
        self._recovered(replica, killed_at, "it caught up by itself")
        await trio.sleep_until(started + self.seconds * PRIMARY_KILLED_AT)
        killed_at = await self._kill(self.regions.primary)
        await self._answered_after(killed_at)
        self._recovered(self.regions.primary, killed_at, "it takes writes, and knows those that it had taken")

    async def _answered_after(self, killed_at: float) -> None:
        """A write that was sent after the kill is acknowledged: an answer may have been on its way before."""
        with trio.move_on_after(RECOVER_SECONDS):
            await self.customers.answered_after(killed_at)
            return
        message = f"no write was acknowledged within {RECOVER_SECONDS:.0f} s"
        raise Unavailable("not_recovered", message, place=f"region {PRIMARY}", cure="see the region's log")

    async def _kill(self, region: Region) -> float:
        """SIGKILL, and start again a moment later. When it was killed."""
        region.kill()
        killed_at = trio.current_time()
        self._show.say(f"{region.name}: SIGKILL to the {region.role}'s sidecar at sequence"
                       f" {self.watch.states[region.name].sequence:,}")  # fmt: skip
        await trio.sleep(min(AWAY * self.seconds, AWAY_LIMIT_SECONDS))
        region.start()
        return killed_at

    def _recovered(self, region: Region, killed_at: float, how: str) -> None:
        seconds = trio.current_time() - killed_at
        self._kills.append(Kill(region.name, seconds))
        self._show.say(f"{region.name}: back {seconds:.1f} s after the kill; {how}")

    async def _keep_showing(self) -> None:
        while True:
            self._show.figures(self)
            await trio.sleep(SHOW_SECONDS)

    async def _keep_verifying(self) -> None:
        """Compare replicas with the primary in turns, under traffic."""
        while True:
            for region in self.regions.replicas:
                await trio.sleep(max(VERIFY_LEAST_SECONDS, VERIFY_EVERY * self.seconds))
                await self._verify(region)

    async def _verify(self, region: Region) -> None:
        try:
            verdict = await verify_one(self.regions, region)
        except ReplicatorError as error:
            if error.reason == "diverged":
                self._live.append(Check(region.name, "under traffic", False, str(error)))
            return  # a sidecar was killed meanwhile, say: its turn comes again
        self._live.append(Check(region.name, "under traffic", verdict.is_equal, told(verdict)))
        self.watch.states[region.name].verified = brief(told(verdict))
        if not verdict.is_equal:
            self._show.say(f"{region.name}: {told(verdict)}")
