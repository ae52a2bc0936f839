"""The demo's traffic: customers of three regions who pay, repeat themselves, and read at home what they just wrote.

Guarantee: each operation is sent, unchanged and under one idempotency key, until the ledger gives a definite answer, so
the books know of each whether it happened. Customers find the primary by themselves: a region that does not lead names
the one that does, and where nobody answers the next one is asked. A read with ``?after=`` that shows something older
than the customer's own write is counted as stale, a repetition that is not recognised as a repetition is counted, too;
both must be none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import trio

from replicator.errors import ReplicatorError, Unavailable
from replicator.ops.demo.bank import Books, Operation, User, draw, opening
from replicator.ops.demo.regions import NAMES, DemoRegion, DemoRegions
from replicator.transport.answer import Answer, read_json
from replicator.transport.client import Bounds, Client

USERS_PER_REGION = 20
CUSTOMERS_PER_REGION = 3
THINK_SECONDS = 0.03  # at most, between two operations of a customer
REPEATED = 0.1
READ_BACK = 0.5
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.05
REQUEST_SECONDS = 10.0
ANSWER_LIMIT_BYTES = 1_000_000

Clients = Mapping[str, Client]  # by region


@dataclasses.dataclass(slots=True)
class CustomerTally:
    """What the customers saw. ``read_seconds`` run from a write's acknowledgement to the answer of the read;
    ``answered_sent_at`` is when the latest request that was answered had been sent, ``answered_at`` when an answer came
    last, and ``longest_gap_seconds`` the longest time between two answers, since it was set to zero."""

    repeated: int = 0
    not_recognised: int = 0
    resent: int = 0
    found_done: int = 0
    stale: int = 0
    read_seconds: list[float] = dataclasses.field(default_factory=list)
    answered_sent_at: float = 0.0
    answered_at: float = 0.0
    longest_gap_seconds: float = 0.0


class _Written(NamedTuple):
    position: str
    version: int
    replayed: bool


class Customers:
    """All customers, their books and what they saw."""

    def __init__(self, regions: DemoRegions, seed: int) -> None:
        self._regions = regions
        self._draws = random.Random(seed)
        self.users = [User(f"{name}-{n:02}", name) for name in NAMES for n in range(1, USERS_PER_REGION + 1)]
        self.books = Books(self.users)
        self.tally = CustomerTally()
        self._answered = trio.Event()

    async def open_wallets(self) -> None:
        """Everybody gets an empty wallet."""
        async with _connected(self._regions) as clients:
            await self._send(clients, opening(self.users))

    async def run(self, stopping: trio.Event) -> None:
        """Pay and read until told to stop; then everybody ends what is under way."""
        async with _connected(self._regions) as clients, trio.open_nursery() as nursery:
            for region in NAMES:
                at_home = [user for user in self.users if user.region == region]
                for n in range(CUSTOMERS_PER_REGION):
                    group = at_home[n::CUSTOMERS_PER_REGION]
                    draws = random.Random(self._draws.random())
                    nursery.start_soon(self._customer, clients, f"{region}-{n}", group, draws, stopping)

    async def answered_after(self, moment: float) -> None:
        """Return once a write was acknowledged that had been sent after this moment of trio's clock."""
        while self.tally.answered_sent_at <= moment:
            await self._answered.wait()

    async def _customer(
        self, clients: Clients, name: str, group: Sequence[User], draws: random.Random, stopping: trio.Event
    ) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            await self._operate(clients, draw(draws, f"{name}-{number}", draws.choice(group), self.users), draws)
            await trio.sleep(draws.uniform(0, THINK_SECONDS))

    async def _operate(self, clients: Clients, operation: Operation, draws: random.Random) -> None:
        answer = await self._send(clients, operation.body())
        if answer is None:
            self.books.refuse()
            return
        self.books.acknowledge(operation)
        if draws.random() < READ_BACK:
            elsewhere = [region.name for region in self._regions.replicas]
            home = operation.user.region
            await self._read_back(clients, operation, answer, home if home in elsewhere else draws.choice(elsewhere))
        if draws.random() < REPEATED:
            again = await self._send(clients, operation.body())
            self.tally.repeated += 1
            self.tally.not_recognised += again != answer._replace(replayed=True)

    async def _send(self, clients: Clients, body: dict[str, Any]) -> _Written | None:
        """The ledger's answer; None if a condition refuses it. Sent again for as long as there is no answer."""
        asked = self._regions.primary
        lost = False
        with trio.move_on_after(PATIENCE_SECONDS):
            while True:
                sent_at = trio.current_time()
                try:
                    response = await clients[asked.name].exchange("POST", "/v1/transactions", fields=body)
                except Unavailable:
                    lost, asked = True, self._regions.behind(asked)
                else:
                    if response.status == 200:
                        self._regions.primary = asked
                        self._note_answer(sent_at)
                        answer = _written(response, asked)
                        self.tally.found_done += lost and answer.replayed
                        return answer
                    if _reason(response) == "condition_failed":
                        return None
                    if _reason(response) == "not_primary":
                        asked = self._regions.at(_primary_of(response)) or self._regions.behind(asked)
                    elif response.status != 503:
                        raise _unexpected(response, asked)
                    lost = lost or _reason(response) == "outcome_unknown"
                self.tally.resent += 1
                await trio.sleep(PAUSE_SECONDS)
        raise Unavailable(
            "no_answer", f"no answer within {PATIENCE_SECONDS:.0f} s", place=asked.url, cure="see the region's log"
        )

    def _note_answer(self, sent_at: float) -> None:
        now, tally = trio.current_time(), self.tally
        tally.answered_sent_at = max(sent_at, tally.answered_sent_at)
        tally.longest_gap_seconds = max(tally.longest_gap_seconds, now - (tally.answered_at or now))
        tally.answered_at = now
        self._answered.set()
        self._answered = trio.Event()

    async def _read_back(self, clients: Clients, operation: Operation, answer: _Written, region: str) -> None:
        """Read one's own write in another region. A region that is away is not waited for."""
        where = self._regions[region]
        started = trio.current_time()
        path = f"/v1/tables/wallets/documents/{operation.user.wallet}"
        query = {"after": answer.position, "timeout": "5s"}
        while trio.current_time() - started < PATIENCE_SECONDS:
            try:
                response = await clients[where.name].exchange("GET", path, query=query)
            except Unavailable:
                return
            if response.status == 200:
                self.tally.read_seconds.append(trio.current_time() - started)
                self.tally.stale += _field(response, where, "version") < answer.version
                return
            if response.status != 503:
                raise _unexpected(response, where)
            await trio.sleep(PAUSE_SECONDS)


@contextlib.asynccontextmanager
async def _connected(regions: DemoRegions) -> AsyncIterator[Clients]:
    bounds = Bounds(REQUEST_SECONDS, ANSWER_LIMIT_BYTES)
    async with contextlib.AsyncExitStack() as open_clients:
        yield {
            region.name: await open_clients.enter_async_context(Client(region.endpoint, bounds))
            for region in regions.all
        }


def _written(response: Answer, region: DemoRegion) -> _Written:
    position, versions = _field(response, region, "position"), _field(response, region, "versions")
    return _Written(position, versions[0], response.headers.get("Idempotency-Replayed") == "true")


def _field(response: Answer, region: DemoRegion, name: str) -> Any:
    try:
        return read_json(response.content)[name]
    except (ValueError, KeyError, TypeError) as error:
        raise _unexpected(response, region) from error


def _reason(response: Answer) -> str:
    return _text(response, "reason")


def _primary_of(response: Answer) -> str:
    return _text(response, "primary")


def _text(response: Answer, name: str) -> str:
    try:
        return str(read_json(response.content)[name])
    except (ValueError, KeyError, TypeError):
        return ""


def _unexpected(response: Answer, region: DemoRegion) -> ReplicatorError:
    message = f"HTTP {response.status}, which was not expected: {response.content[:500]!r}"
    return ReplicatorError("unexpected_answer", message, place=f"region {region.name}", cure="see the region's log")
