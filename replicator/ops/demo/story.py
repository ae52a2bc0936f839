"""The course of the demo: start, traffic, a replica killed, the primary's region lost, another one takes over, the lost
one comes back and is switched back to, an end, a verdict.

Guarantee: the traffic goes on through all of it, and ends only when every region is back in its place, however short a
run was asked for.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Protocol

import trio

from replicator.errors import ReplicatorError, Unavailable
from replicator.ops.demo.customers import Customers
from replicator.ops.demo.judge import EVERY_ROW, EqualityCheck, brief, describe, judge, verify_one
from replicator.ops.demo.regions import FIRST, DemoRegion, DemoRegions
from replicator.ops.demo.report import DemoReport, PrimaryChange, SidecarKill, seen_by_customers
from replicator.ops.demo.watch import RegionState, RegionWatch
from replicator.transport.client import Bounds, Client

START_SECONDS = 60.0
RECOVER_SECONDS = 60.0
SHOW_SECONDS = 0.25
REPLICA_KILLED_AT, PRIMARY_LOST_AT, SWITCHED_BACK_AT = 0.15, 0.4, 0.8  # shares of the time
SWITCHOVER_SECONDS = 10.0
AWAY = 0.06  # of the time
AWAY_LIMIT_SECONDS = 2.0
VERIFY_EVERY = 0.15  # of the time
VERIFY_LEAST_SECONDS = 1.0
BOUNDS = Bounds(5.0, 16_000_000)


def _leads(state: RegionState) -> bool:
    return state.state == "primary" and state.is_open


class StoryOutput(Protocol):
    """What the story is told to: the screen, or a log."""

    def say(self, line: str) -> None:
        """Show an event."""

    def figures(self, story: DemoStory) -> None:
        """Show how the regions are now; called a few times a second."""


class DemoStory:
    """One run of the demo. ``seconds`` is for how long there is traffic."""

    def __init__(self, directory: Path, seconds: float, show: StoryOutput) -> None:
        self.directory = directory
        self.seconds = seconds
        self.regions = DemoRegions(directory)
        self.watch = RegionWatch(self.regions)
        self.customers = Customers(self.regions, random.SystemRandom().randrange(2**32))
        self._show = show
        self._kills: list[SidecarKill] = []
        self._changes: list[PrimaryChange] = []
        self._orphans = 0
        self._live: list[EqualityCheck] = []
        self._is_changing = False

    @property
    def states(self) -> list[RegionState]:
        """The regions as they are now."""
        return list(self.watch.states.values())

    async def tell(self) -> DemoReport:
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
        await self.watch.until(self.regions.primary, _leads, "lead", START_SECONDS)
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
                await self._kill_replica(started)
                await self._lose_primary(started)
                await self._switch_back(started)
                await trio.sleep_until(started + self.seconds)
                stopping.set()
            beside.cancel_scope.cancel()
        return trio.current_time() - started

    async def verdict(self, traffic_seconds: float) -> DemoReport:
        """Judge all regions, now that there is no traffic."""
        checks = await judge(self.regions, self.watch, self.customers.books)
        checks += seen_by_customers(self.customers.tally)
        for check in checks:
            if check.what == EVERY_ROW and check.region in self.watch.states:
                self.watch.states[check.region].verified = brief(check.told)
        self._show.figures(self)
        failed_before = [check for check in self._live if not check.passed]
        return DemoReport(
            traffic_seconds,
            self.customers.books,
            self.customers.tally,
            self._kills,
            self._changes,
            self._orphans,
            len(self._live),
            [*checks, *failed_before],
        )

    # -- what happens meanwhile

    async def _kill_replica(self, started: float) -> None:
        await trio.sleep_until(started + self.seconds * REPLICA_KILLED_AT)
        replica = self.regions.replicas[0]
        killed_at = await self._kill(replica)
        replica.start()
        await self.watch.reach(replica, self.watch.states[self.regions.primary.name].sequence, RECOVER_SECONDS)
        self._recovered(replica, killed_at, "it caught up by itself")

    async def _lose_primary(self, started: float) -> None:
        """The primary is killed and stays away until another region has taken over; then it comes back as a replica."""
        await trio.sleep_until(started + self.seconds * PRIMARY_LOST_AT)
        lost, self._is_changing = self.regions.primary, True
        self.customers.tally.longest_gap_seconds = 0.0
        killed_at = await self._kill(lost)
        await self._answered_after(killed_at)
        self._changed("failover", killed_at)
        lost.start()
        await self.watch.until(lost, lambda state: state.state == "following", "follow", RECOVER_SECONDS)
        await self.watch.reach(lost, self.watch.states[self.regions.primary.name].sequence, RECOVER_SECONDS)
        self._is_changing = False
        counts = await self._sealed(lost)
        self._orphans = counts.total()
        words = "it had nothing alone"
        if self._orphans:
            words = f"transactions that only it had are sealed: {self._orphans}, of these sent again by their customers"
            words += f" and there already: {counts['there']}"
        self._recovered(lost, killed_at, f"it follows {self.regions.primary.name}; {words}")

    async def _switch_back(self, started: float) -> None:
        await trio.sleep_until(started + self.seconds * SWITCHED_BACK_AT)
        leads, target, self._is_changing = self.regions.primary, self.regions[FIRST], True
        self._show.say(f"{target.name}: a planned switchover from {leads.name}")
        self.customers.tally.longest_gap_seconds = 0.0
        order = {"verb": "switchover", "target": target.name, "seconds": SWITCHOVER_SECONDS, "reason": "by the demo"}
        ordered_at = trio.current_time()
        async with Client(leads.endpoint, BOUNDS) as client:
            await client.ask("POST", "/v1/failover/orders", fields=order)
        await self.watch.until(target, _leads, "lead", RECOVER_SECONDS)
        await self._answered_after(trio.current_time())
        self._changed("switchover", ordered_at)
        await self.watch.until(leads, lambda state: state.state == "following", "follow", RECOVER_SECONDS)
        self._is_changing = False

    def _changed(self, kind: str, since: float) -> None:
        seconds, blocked = trio.current_time() - since, self.customers.tally.longest_gap_seconds
        region = self.regions.primary
        self._changes.append(PrimaryChange(kind, region.name, seconds, blocked))
        self._show.say(f"{region.name}: leads after a {kind}; for {blocked:.2f} s no write was acknowledged")

    async def _sealed(self, region: DemoRegion) -> Counter[str]:
        """How many transactions the region sealed that were in no other region, by how they were judged."""
        async with Client(region.endpoint, BOUNDS) as client:
            answer = await client.json("GET", "/v1/orphans")
        return sum((Counter(seal["counts"]) for seal in answer["orphans"]), Counter())

    async def _answered_after(self, moment: float) -> None:
        """A write that was sent after the moment is acknowledged: an answer may have been on its way before."""
        with trio.move_on_after(RECOVER_SECONDS):
            await self.customers.answered_after(moment)
            return
        message = f"no write was acknowledged within {RECOVER_SECONDS:.0f} s"
        raise Unavailable("not_recovered", message, place="all regions", cure="see the regions' logs")

    async def _kill(self, region: DemoRegion) -> float:
        """SIGKILL, and a moment without it. When it was killed."""
        role = self.watch.states[region.name].role
        region.kill()
        killed_at = trio.current_time()
        self._show.say(f"{region.name}: SIGKILL to the {role}'s sidecar at sequence"
                       f" {self.watch.states[region.name].sequence:,}")  # fmt: skip
        await trio.sleep(min(AWAY * self.seconds, AWAY_LIMIT_SECONDS))
        return killed_at

    def _recovered(self, region: DemoRegion, killed_at: float, how: str) -> None:
        seconds = trio.current_time() - killed_at
        self._kills.append(SidecarKill(region.name, seconds))
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
                if not self._is_changing and region is not self.regions.primary:
                    await self._verify(region)

    async def _verify(self, region: DemoRegion) -> None:
        try:
            verdict = await verify_one(self.regions, region)
        except ReplicatorError as error:
            if error.reason == "diverged" and not self._is_changing:
                self._live.append(EqualityCheck(region.name, "under traffic", False, str(error)))
            return  # a sidecar was killed meanwhile, say: its turn comes again
        self._live.append(EqualityCheck(region.name, "under traffic", verdict.is_equal, describe(verdict)))
        self.watch.states[region.name].verified = brief(describe(verdict))
        if not verdict.is_equal:
            self._show.say(f"{region.name}: {describe(verdict)}")
