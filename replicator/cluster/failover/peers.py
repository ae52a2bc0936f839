"""The other regions of the cluster: what they report, and asking them for a promise or a deed.

Guarantee: a peer that does not answer costs a bounded time and keeps nobody waiting who does not wait for it; an answer
that is not a report is no report.

    GET  /v1/failover            {"report": …, …}
    POST /v1/failover/promise    {"epoch": N}   answers a report that is true after the promise
    POST /v1/failover/orders     an order
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from replicator.cluster.decisions.model import HeardReport, MemberReport, Order
from replicator.cluster.failover.wire import order_json, report_from
from replicator.errors import Halted, ReplicatorError
from replicator.transport.answer import ExchangeReasons, bad_answer
from replicator.transport.client import Bounds, Client
from replicator.transport.endpoint import Endpoint

ANSWER_LIMIT_BYTES = 256 * 1024
CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 1.5
SILENT_SECONDS = 0.3  # for a promise of one that does not answer
CALM_SECONDS = 0.5  # between looks while all is well
QUICK_SECONDS = 0.05
TIMED_ANSWERS = 20
REASONS = ExchangeReasons("peer_unreachable", "peer_unreachable")

log = logging.getLogger("replicator")


class Peers:
    """Keeps the last report of each peer. ``run`` polls; ``quick`` says when to look as often as possible."""

    def __init__(
        self,
        urls: Mapping[str, str],
        token: str | None,
        ca_file: Path | None,
        clock: Callable[[], float],
        quick: Callable[[], bool],
        on_heard: Callable[[], None],
    ) -> None:
        self.urls = dict(urls)
        self.heard: dict[str, HeardReport] = {}
        self._looked_at: set[str] = set()
        self._took: dict[str, deque[float]] = {name: deque(maxlen=TIMED_ANSWERS) for name in urls}
        self._token, self._ca_file = token, ca_file
        self._clock, self._quick, self._on_heard = clock, quick, on_heard
        self._hurried = trio.Event()
        self._clients: dict[str, Client] = {}
        self._said: dict[str, str] = {}  # what is wrong with a peer that needs a person

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at every peer, for ever."""
        async with trio.open_nursery() as nursery:
            for name, url in self.urls.items():
                endpoint = Endpoint(name, url, self._token, self._ca_file, "[cluster] token", "[cluster] ca =")
                bounds = Bounds(ANSWER_SECONDS, ANSWER_LIMIT_BYTES)
                self._clients[name] = Client(endpoint, bounds, REASONS, connect_seconds=CONNECT_SECONDS)
                nursery.start_soon(self._watch, name)
            task_status.started()

    @property
    def polled(self) -> bool:
        """Whether every peer was looked at, answered or not."""
        return len(self._looked_at) == len(self.urls)

    def distance_ms(self, name: str) -> int:
        """How long an answer of this region takes: the shortest of the last, for the others met a busy machine."""
        return round(min(self._took.get(name) or [0.0]) * 1000)

    def hurry(self) -> None:
        """Look again at once."""
        self._hurried.set()
        self._hurried = trio.Event()

    async def _watch(self, name: str) -> None:
        while True:
            await self.look(name)
            with trio.move_on_after(QUICK_SECONDS if self._quick() else CALM_SECONDS):
                await self._hurried.wait()

    async def look(self, name: str) -> None:
        """Look at one peer now, for a bounded time. Of one that does not answer there is what it said before."""
        at = self._clock()
        try:
            answer = await self._clients[name].json("GET", "/v1/failover")
            self._took[name].append(self._clock() - at)
            self._take(name, answer.get("report"), at)
            self._said.pop(name, None)
        except ReplicatorError as error:
            self._say(name, error)
        self._looked_at.add(name)

    def _say(self, name: str, error: ReplicatorError) -> None:
        """A peer that is away is shown as such; what needs a person (another token, another address) is logged once."""
        if isinstance(error, Halted) and self._said.get(name) != error.reason:
            self._said[name] = error.reason
            log.error("region %s is not heard: %s", name, error)
        else:
            log.debug("region %s: %s", name, error)

    def _take(self, name: str, fields: object, at: float) -> MemberReport:
        try:
            report = report_from(fields)
            if report.region != name:
                raise ValueError(f"the region calls itself {report.region!r}")
        except ValueError as error:
            raise bad_answer(self._clients[name].endpoint.place, f"it is no report: {error}") from error
        self.heard[name] = HeardReport(report, at)
        self._on_heard()
        return report

    async def promise(self, epoch: int) -> None:
        """Ask every peer to promise ``epoch``; those who do have reported by the time this returns. One that has been
        silent for long is waited for only as long as an answer of one that is well may take."""

        async def ask(name: str) -> None:
            at = self._clock()
            heard = self.heard.get(name)
            is_silent = heard is None or at - heard.at > ANSWER_SECONDS
            try:
                with trio.move_on_after(SILENT_SECONDS if is_silent else math.inf):
                    answer = await self._clients[name].json("POST", "/v1/failover/promise", fields={"epoch": epoch})
                    self._take(name, answer.get("report"), at)
            except ReplicatorError as error:
                log.debug("region %s has not promised epoch %d: %s", name, epoch, error)

        async with trio.open_nursery() as nursery:
            for name in self.urls:
                nursery.start_soon(ask, name)

    async def tell(self, name: str, order: Order, seconds: float) -> None:
        """Give a peer an order. Raises ReplicatorError if it is not taken."""
        await self._clients[name].json("POST", "/v1/failover/orders", fields=order_json(order, seconds))
