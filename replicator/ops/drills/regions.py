"""The regions of a deployment, asked over HTTP.

Guarantee: what a region answers is bounded in size and time; whatever it answers becomes a ``RegionObservation`` (an
answer that cannot be read: a region that is away), or a ReplicatorError for what was ordered. A deployment without
failover is read by its status alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import trio

from replicator.errors import ConfigError, Rejected, ReplicatorError
from replicator.ops.drills.rules.observations import RegionObservation, of_failover, of_status
from replicator.transport.answer import bad_answer
from replicator.transport.client import Bounds, Client
from replicator.transport.endpoint import Endpoint

ANSWER_LIMIT_BYTES = 8_000_000
LOOK_SECONDS = 1.0
LAG_SECONDS = 1.0
TELL_SECONDS = 30.0

Fields = dict[str, Any]


class DeploymentRegions:
    """All regions of a deployment. Use as an async context manager; ``clock`` counts seconds since the drill began."""

    def __init__(self, places: Iterable[Endpoint], clock: Callable[[], float]) -> None:
        self.places = {place.name: place for place in places}
        self._clock = clock
        bounds = Bounds(TELL_SECONDS, ANSWER_LIMIT_BYTES)
        self._clients = {name: Client(place, bounds) for name, place in self.places.items()}
        self._with_status: set[str] = set()  # those that know no failover
        self._lags: dict[str, tuple[float, float | None]] = {}

    async def __aenter__(self) -> DeploymentRegions:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.aclose()

    def client(self, name: str) -> Client:
        """A region's client."""
        return self._clients[name]

    def named_in(self, text: str) -> str | None:
        """The region whose address a text holds."""
        return next((name for name, place in self.places.items() if place.url in text), None)

    async def look(self, name: str) -> RegionObservation:
        """How a region is, now. Never raises."""
        asked_at = self._clock()
        try:
            with trio.fail_after(LOOK_SECONDS):
                observation = await self._look(name, asked_at)
        except (trio.TooSlowError, ReplicatorError, KeyError, TypeError, ValueError, AttributeError):
            return RegionObservation(name, asked_at, self._clock())
        return dataclasses.replace(observation, at=self._clock())

    async def _look(self, name: str, asked_at: float) -> RegionObservation:
        if name not in self._with_status:
            answer = await self._ask(name, "GET", "/v1/failover", None, LOOK_SECONDS)
            if answer is not None:
                return of_failover(name, asked_at, answer, await self._lag(name))
            self._with_status.add(name)
        status = await self._ask(name, "GET", "/v1/status", None, LOOK_SECONDS)
        if status is None:
            raise bad_answer(self.places[name].place, "it has no status")
        return of_status(name, asked_at, status)

    async def _lag(self, name: str) -> float | None:
        """How far behind a region is, from its status, asked for now and then."""
        before = self._lags.get(name)
        if before is None or self._clock() - before[0] > LAG_SECONDS:
            status = await self._ask(name, "GET", "/v1/status", None, LOOK_SECONDS)
            lag = None if status is None else status["strands"][0]["lag"]["seconds"]
            before = self._lags[name] = (self._clock(), lag)
        return before[1]

    async def ask(self, name: str, path: str) -> Fields | None:
        """A region's JSON; None for 404. Raises ReplicatorError."""
        return await self._ask(name, "GET", path, None, TELL_SECONDS)

    async def tell(self, name: str, path: str, fields: Fields, seconds: float = TELL_SECONDS) -> Fields | None:
        """Post fields; the answer, None for 404. Raises ReplicatorError."""
        return await self._ask(name, "POST", path, fields, seconds)

    async def order(self, name: str, **fields: Any) -> None:
        """Order something of the region's failover. Raises ReplicatorError if it is refused."""
        if await self.tell(name, "/v1/failover/orders", fields) is None:
            cure = "give its configuration a [cluster] and a [lease]"
            raise ConfigError("no_failover", "the region takes no orders", place=self.places[name].place, cure=cure)

    async def _ask(self, name: str, method: str, path: str, fields: Fields | None, seconds: float) -> Fields | None:
        bounds = Bounds(seconds, ANSWER_LIMIT_BYTES)
        try:
            return await self._clients[name].json(method, path, fields=fields, bounds=bounds)
        except Rejected as refusal:
            if refusal.status == 404:
                return None
            raise
