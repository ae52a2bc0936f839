"""What each region says of itself during a game day, and what of it was not true. ``lies`` is pure.

A claim is judged by what the checker itself had seen up to then, or sees later: an acknowledged transfer that is not in
the region's database after a claim to be no further behind than so many seconds; a database that takes no writes, or
does not answer, behind a claim that it does. ``GRACE_SECONDS`` is what a sidecar may take to notice.
"""

from __future__ import annotations

import bisect
import http.client
import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.e2e.gameday.bank import Receipt
from tests.e2e.gameday.probes import Sight

PAUSE_SECONDS = 0.3
LAG_SECONDS = 3
GRACE_SECONDS = 4.0
LEASE_SECONDS = 6.0  # a lease and what a primary may take to notice that it cannot write: within it others wait
PATHS = (
    "/primary",
    "/health",
    f"/readiness?lag={LAG_SECONDS}s",
    f"/replica?lag={LAG_SECONDS}s",
    "/v1/status",
    "/metrics",
)


class Claim(NamedTuple):
    """An answer of a region. ``kind``: leads, fresh (no further behind than ``seconds``), promotable."""

    region: str
    kind: str
    where: str
    began: float
    ended: float
    seconds: float = 0.0


class Witness(threading.Thread):
    """Asks one region all the time, as a balancer, Prometheus and an operator do."""

    def __init__(self, region: str, address: tuple[str, int]) -> None:
        super().__init__(name=f"witness of {region}", daemon=True)
        self.region, self._address = region, address
        self.claims: list[Claim] = []
        self.faults: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            for path in PATHS:
                self._ask(path)
            self._over.wait(PAUSE_SECONDS)

    def end(self) -> None:
        self._over.set()

    def _ask(self, path: str) -> None:
        began = time.monotonic()
        connection = http.client.HTTPConnection(*self._address, timeout=3)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()
        if response.status not in (200, 503):
            self.faults.append(f"{self.region}{path}: {response.status} {body[:200]!r}")
        if response.status == 200:
            self._heard(path, body, began, time.monotonic())

    def _heard(self, path: str, body: bytes, began: float, ended: float) -> None:
        match path.partition("?")[0]:
            case "/primary":
                self.claims.append(Claim(self.region, "leads", path, began, ended))
            case "/readiness" | "/replica":
                self.claims.append(Claim(self.region, "fresh", path, began, ended, LAG_SECONDS))
            case "/metrics":
                for line in body.decode().splitlines():
                    is_whole_way = line.startswith("replicator_lag_seconds{") and '"end_to_end"' in line
                    if is_whole_way and not line.endswith("NaN"):
                        seconds = float(line.rsplit(" ", 1)[1])
                        self.claims.append(Claim(self.region, "fresh", "replicator_lag_seconds", began, ended, seconds))
            case "/v1/status":
                self._status(json.loads(body), began, ended)

    def _status(self, status: Mapping[str, Any], began: float, ended: float) -> None:
        for strand in status["strands"]:
            if strand["lag"]["seconds"] is not None:
                seconds = strand["lag"]["seconds"]
                self.claims.append(Claim(self.region, "fresh", "status: lag", began, ended, seconds))
        for member in status.get("failover", {}).get("regions", []):
            if member["promotable"]:
                self.claims.append(Claim(member["region"], "promotable", f"status of {self.region}", began, ended))


def lies(
    claims: Sequence[Claim], sights: Mapping[str, Sequence[Sight]], receipts: Sequence[Receipt], kept: frozenset[str]
) -> list[str]:
    """The claims that were not true. ``kept`` are the requests that are in the ledger now: what was acknowledged, lost
    and sealed (K = 0) was nobody's to show after its epoch had ended."""
    shown = _Shown(sights, [receipt for receipt in receipts if receipt.request in kept])
    judges = {"leads": shown.takes_no_writes, "fresh": shown.is_behind, "promotable": shown.is_dead}
    said: dict[tuple[str, str], list[str]] = {}
    for claim in claims:
        if why := judges[claim.kind](claim):
            said.setdefault((claim.region, claim.where), []).append(f"at {claim.began:.1f}: {why}")
    return [f"{region} {where}, {len(all)} times, first {all[0]}" for (region, where), all in said.items()]


class _Shown:
    """What the checker saw, by time."""

    def __init__(self, sights: Mapping[str, Sequence[Sight]], receipts: Sequence[Receipt]) -> None:
        self._sights = sights
        self._began = {region: [sight.began for sight in seen] for region, seen in sights.items()}
        self._receipts: dict[str, list[Receipt]] = {}
        for receipt in receipts:
            self._receipts.setdefault(receipt.teller, []).append(receipt)
        self._heard = {teller: [each.heard for each in mine] for teller, mine in self._receipts.items()}

    def takes_no_writes(self, claim: Claim) -> str:
        """For so long that the sidecar has to know it; not where it just begins to: then the next one is taken."""
        recent = self._between(claim.region, claim.began - LEASE_SECONDS, claim.ended)
        following = self._first_after(claim.region, claim.ended)
        if len(recent) < 3 or any(sight.writes for sight in recent) or (following is not None and following.writes):
            return ""
        return f"says that its applications may write; none of {len(recent)} writes in {LEASE_SECONDS:.0f} s was taken"

    def is_dead(self, claim: Claim) -> str:
        """Whether its database has not been readable for so long that everybody has to know it."""
        recent = self._between(claim.region, claim.began - 2 * GRACE_SECONDS, claim.ended)
        if len(recent) < 3 or any(sight.tellers is not None for sight in recent):
            return ""
        return "could be promoted, it says; its database has not answered for 8 s"

    def is_behind(self, claim: Claim) -> str:
        """Whether its database lacks, after the claim, what was acknowledged longer ago than it says to be behind."""
        later = self._first_after(claim.region, claim.ended)
        if later is None or later.tellers is None:
            return ""
        oldest = claim.began - claim.seconds - GRACE_SECONDS
        for teller, heard in self._heard.items():
            number = bisect.bisect_right(heard, oldest)
            if number and later.tellers.get(teller, 0) < (missing := self._receipts[teller][number - 1]).ordinal:
                age = claim.began - missing.heard
                lacks = f"{missing.request}, acknowledged {age:.1f} s ago, is not there"
                return f"is {claim.seconds:.1f} s behind, it says; {lacks}"
        return ""

    def _between(self, region: str, first: float, last: float) -> list[Sight]:
        seen, began = self._sights[region], self._began[region]
        return list(seen[bisect.bisect_left(began, first) : bisect.bisect_right(began, last)])

    def _first_after(self, region: str, moment: float) -> Sight | None:
        at = bisect.bisect_left(self._began[region], moment)
        return self._sights[region][at] if at < len(self._sights[region]) else None


def two_writers(sights: Mapping[str, Sequence[Sight]]) -> list[str]:
    """Moments at which one region let a write through between two that another let through, with none refused there."""
    said = []
    for one, seen in sights.items():
        opened = [(a.ended, b.began) for a, b in itertools.pairwise(seen) if a.writes and b.writes]
        for other, others in sights.items():
            if other == one:
                continue
            within = [sight for sight in others if sight.writes and _is_within(sight, opened)]
            if within:
                said.append(f"{one} and {other} both took writes, {len(within)} times, first at {within[0].began:.1f}")
    return said


def _is_within(sight: Sight, spans: Sequence[tuple[float, float]]) -> bool:
    """Whether an attempt lies in one of these spans, which are in order."""
    at = bisect.bisect_left(spans, (sight.began, 0.0)) - 1
    return at >= 0 and sight.ended < spans[at][1]
