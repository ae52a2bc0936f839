"""Clients of a cluster under failure, as good clients are, and what they can testify afterwards.

A ``Writer`` follows the ``primary`` that a refusal names, waits for what Retry-After says, and sends again, with the
same idempotency key, whatever it has no answer to. Every answer that it counts as acknowledged is kept with its times.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 3.0


class Acknowledged(NamedTuple):
    """A write whose client was told that it is done. Times are of one monotonic clock. ``repeated``: it was done by an
    earlier request, maybe elsewhere; the epoch is that one's."""

    id: str
    region: str
    epoch: int
    sent: float
    heard: float
    repeated: bool


class Writer(threading.Thread):
    """One client. ``addresses`` are the regions' own, ``known_as`` says whom a URL in a refusal means. With ``only`` it
    asks that region and no other."""

    def __init__(
        self,
        name: str,
        addresses: Mapping[str, tuple[str, int]],
        known_as: Mapping[str, str],
        *,
        only: str | None = None,
        honours_retry_after: bool = True,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.acknowledged: list[Acknowledged] = []
        self.faults: list[str] = []  # answers that no good client should get
        self._addresses, self._known_as = addresses, known_as
        self._only, self._honours, self._patience = only, honours_retry_after, patience_seconds
        self._order = list(addresses)
        self._region = only or self._order[0]
        self._connection: http.client.HTTPConnection | None = None
        self._over = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            self._write(f"{self.name}-{number}")
            self._over.wait(PAUSE_SECONDS)
        self._close()

    def end(self) -> None:
        """Give up what is not acknowledged yet, and end."""
        self._over.set()
        self.join(self._patience + 5)

    def _write(self, id: str) -> None:
        """Until it is acknowledged."""
        while not self._over.is_set():
            acknowledged = self._attempt(id)
            if acknowledged is not None:
                self.acknowledged.append(acknowledged)
                return

    def _attempt(self, id: str) -> Acknowledged | None:
        document = {"wallet_id": id, "user_id": self.name, "amount": 1}
        body = json.dumps({"id": id, "statements": [{"table": "wallets", "op": "insert", "document": document}]})
        region, sent = self._region, time.monotonic()
        try:
            status, headers, answer = self._exchange(region, body)
        except (OSError, http.client.HTTPException, ValueError):
            self._elsewhere()
            self._over.wait(PAUSE_SECONDS)
            return None
        if status == 200:
            epoch = int(answer["position"].split(":")[1])
            repeated = headers.get("Idempotency-Replayed") == "true"
            return Acknowledged(id, region, epoch, sent, time.monotonic(), repeated)
        self._refused(id, status, headers, answer)
        return None

    def _exchange(self, region: str, body: str) -> tuple[int, http.client.HTTPMessage, dict[str, Any]]:
        try:
            if self._connection is None:
                address, port = self._addresses[region]
                self._connection = http.client.HTTPConnection(address, port, timeout=self._patience)
            self._connection.request("POST", "/v1/transactions", body)
            response = self._connection.getresponse()
            return response.status, response.headers, json.loads(response.read())
        except BaseException:
            self._go(region)
            raise

    def _refused(self, id: str, status: int, headers: http.client.HTTPMessage, answer: dict[str, Any]) -> None:
        if status != 503 and (status, answer.get("reason")) != (409, "not_primary"):
            self.faults.append(f"{id}: {status} {answer}")
            self._over.set()
            return
        primary = self._known_as.get(answer.get("primary") or "")
        if primary is not None:
            self._go(primary)
        elif status == 409:
            self._elsewhere()
        wait = float(headers.get("Retry-After", 0)) if self._honours and primary is None else 0.0
        self._over.wait(max(wait, PAUSE_SECONDS))

    def _elsewhere(self) -> None:
        self._go(self._order[(self._order.index(self._region) + 1) % len(self._order)])

    def _go(self, region: str) -> None:
        self._close()
        self._region = self._only or region

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextlib.contextmanager
def writing(writers: Sequence[Writer]) -> Iterator[None]:
    """They write within the block, and none has got an answer that it should not get."""
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        for writer in writers:
            writer.end()
    faults = [fault for writer in writers for fault in writer.faults]
    assert not faults, faults


def all_acknowledged(writers: Sequence[Writer]) -> list[Acknowledged]:
    """All that was acknowledged, in the order in which it was heard."""
    return sorted((one for writer in writers for one in writer.acknowledged), key=lambda one: one.heard)


def check_one_at_a_time(acknowledged: Sequence[Acknowledged]) -> None:
    """An epoch is one region's, and nothing was sent and done in an epoch after a newer one's first answer."""
    done = [one for one in acknowledged if not one.repeated]
    regions: dict[int, set[str]] = {}
    for one in done:
        regions.setdefault(one.epoch, set()).add(one.region)
    assert all(len(names) == 1 for names in regions.values()), regions
    first_heard = {epoch: min(one.heard for one in done if one.epoch == epoch) for epoch in regions}
    for one in done:
        newer = [heard for epoch, heard in first_heard.items() if epoch > one.epoch]
        assert not newer or one.sent <= min(newer), f"{one} was done after a newer epoch had begun"


def longest_gap(acknowledged: Sequence[Acknowledged]) -> float:
    """The longest time within which nobody was told of a write, in seconds."""
    heard = sorted(one.heard for one in acknowledged)
    return max((later - earlier for earlier, later in itertools.pairwise(heard)), default=0.0)
