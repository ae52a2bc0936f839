"""The simulated network: what a message meets on its way, and who is at which address.

Guarantee: a message is lost, late or doubled as the weather and the cut links say, and by nothing else. What was asked
may have been done although no answer came, as on any network.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from replicator.ops.simulation.faults import STORE
from replicator.ops.simulation.schedule import Process, Reply, Schedule
from replicator.ops.simulation.store import LeaseStore
from replicator.ops.simulation.weather import Weather


class WorldEvent(NamedTuple):
    """What happened: virtual seconds, the region, a kind, words."""

    time: float
    region: str
    kind: str
    text: str


class Network(Schedule):
    """Time, chance, the lease store, and the links between all of them. ``addresses`` are the regions, by name."""

    def __init__(self, seed: int, weather: Weather, store: LeaseStore) -> None:
        super().__init__()
        self.dice = random.Random(seed)
        self.weather, self.store = weather, store
        self.addresses: Mapping[str, Process] = {}
        self.events: list[WorldEvent] = []
        self._cut: dict[tuple[str, str], float] = {}
        self._slow: dict[tuple[str, str], tuple[float, float]] = {}

    def delay(self, source: str, target: str) -> float | None:
        """How long a message takes; None: it is lost."""
        if self._cut and self.now < self._cut.get((source, target), 0.0):
            return None
        if STORE in (source, target) and self.store.is_away:
            return None
        weather, dice = self.weather, self.dice
        if weather.loss and dice.random() < weather.loss:
            return None
        seconds = dice.random() * weather.delay_seconds
        if weather.long_delay and dice.random() < weather.long_delay:
            seconds += dice.random() * weather.long_delay_seconds
        if self._slow:
            until, more = self._slow.get((source, target), (0.0, 0.0))
            seconds += more if self.now < until else 0.0
        return seconds

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Lose every message one way."""
        self._cut[source, target] = self.now + seconds

    def reach_each_other(self, one: str, other: str) -> bool:
        """Whether messages pass between these two now, the weather apart."""
        return all(self._cut.get(link, 0.0) <= self.now for link in ((one, other), (other, one)))

    def mend(self) -> None:
        """Every link works again."""
        self._cut.clear()
        self._slow.clear()

    def slow(self, source: str, target: str, seconds: float, more: float) -> None:
        """Delay every message one way."""
        self._slow[source, target] = self.now + seconds, more

    def process(self, name: str) -> Process:
        """Who is at an address."""
        return self.store if name == STORE else self.addresses[name]

    def send(self, source: str, target: str, call: Callable[..., Any], *arguments: Any) -> bool:
        """A message; it may be lost, late, doubled. Whether it is on its way."""
        seconds = self.delay(source, target)
        if seconds is None:
            return False
        self.at(self.now + seconds, self.deliver, self.process(target), call, *arguments)
        if self.weather.double and self.dice.random() < self.weather.double:
            seconds = self.delay(source, target) or 0.0
            self.at(self.now + seconds, self.deliver, self.process(target), call, *arguments)
        return True

    def ask(self, source: str, target: str, call: Callable[[], Any], limit_seconds: float) -> Reply:
        """A question; the reply is None if no answer comes in time. What was asked may have been done all the same."""
        reply = Reply(self.now + limit_seconds)
        seconds = self.delay(source, target)
        if seconds is not None:
            process = self.process(target)
            self.at(self.now + seconds, self._arrive, process, source, target, reply, call)
            if self.weather.double and self.dice.random() < self.weather.double:
                again = self.now + (self.delay(source, target) or 0.0)
                self.at(again, self._arrive, process, source, target, reply, call)
        if seconds is None or self.now + seconds >= reply.limit:
            self.at(reply.limit, reply.give, None)
        return reply

    def _arrive(self, process: Process, source: str, target: str, reply: Reply, call: Callable[[], Any]) -> None:
        """A question comes to a process that may be frozen or gone."""
        now = self.now
        seconds: float | None = None
        if process.frozen_until > now:
            self.at(process.frozen_until, self._arrive, process, source, target, reply, call)
        elif process.up:
            value = call()
            seconds = self.delay(target, source)
            if seconds is not None and now + seconds < reply.limit:
                self.at(now + seconds, self.deliver, self.process(source), reply.give, value)
                return
        if reply.resume is not None:  # it is waited for no longer than it was to be
            self.at(max(reply.limit, now), reply.give, None)

    def answer(self, source: str, target: str, reply: Reply, value: Any) -> None:
        """Send an answer back."""
        self.send(source, target, reply.give, value)

    def note(self, region: str, kind: str, text: str) -> None:
        """Keep what happened."""
        self.events.append(WorldEvent(self.now, region, kind, text))
