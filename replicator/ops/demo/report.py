"""What the demo has shown: figures for ``--json``, and one sentence for people. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from replicator.ops.demo.bank import Books, cents
from replicator.ops.demo.customers import CustomerTally
from replicator.ops.demo.judge import EqualityCheck


@dataclasses.dataclass(frozen=True, slots=True)
class SidecarKill:
    """A sidecar that was killed, and how long it was until it did its work again."""

    region: str
    recovered_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class PrimaryChange:
    """A change of primary: to which region and epoch, how long until the first write that was sent behind it was
    acknowledged, and the longest time without any acknowledged write."""

    kind: str
    region: str
    seconds: float
    blocked_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class DemoReport:
    """A run that came to its end. ``traffic_seconds`` is for how long customers were at work, ``orphans`` how many
    transactions a lost primary had alone."""

    traffic_seconds: float
    books: Books
    tally: CustomerTally
    kills: Sequence[SidecarKill]
    changes: Sequence[PrimaryChange]
    orphans: int
    live_verifications: int
    checks: Sequence[EqualityCheck]

    @property
    def is_equal(self) -> bool:
        """Everything is as it must be."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 only if everything is equal."""
        return 0 if self.is_equal else 1

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        books, tally = self.books, self.tally
        return {
            "equal": self.is_equal,
            "said": self.sentence(),
            "traffic_seconds": round(self.traffic_seconds, 1),
            "transactions": {
                "acknowledged": books.acknowledged,
                "refused": books.refused,
                "repeated": tally.repeated,
                "resent": tally.resent,
                "found_done_when_resent": tally.found_done,
                "per_second": round(books.acknowledged / self.traffic_seconds, 1),
            },
            "money": {
                "topped_up": books.amounts["top-up"],
                "redeemed": books.amounts["redemption"],
                "transferred": books.amounts["transfer"],
                "in_wallets": books.money,
            },
            "reads_of_own_writes": {
                "count": len(tally.read_seconds),
                "stale": tally.stale,
                "p50_ms": _milliseconds(tally.read_seconds, 0.5),
                "p99_ms": _milliseconds(tally.read_seconds, 0.99),
            },
            "kills": [{"region": k.region, "recovered_seconds": round(k.recovered_seconds, 2)} for k in self.kills],
            "changes": [
                {
                    **dataclasses.asdict(c),
                    "seconds": round(c.seconds, 3),
                    "blocked_seconds": round(c.blocked_seconds, 3),
                }
                for c in self.changes
            ],
            "orphans": self.orphans,
            "verified_under_traffic": self.live_verifications,
            "checks": [check._asdict() for check in self.checks],
        }

    def sentence(self) -> str:
        """What was shown, with figures."""
        failed = [check for check in self.checks if not check.passed]
        if failed:
            first = failed[0]
            where = f"first {first.region}, {first.what}: {first.told}"
            return f"NOT EQUAL: {len(failed)} of {len(self.checks)} checks failed, {where}"
        books, tally = self.books, self.tally
        kills = " and ".join(f"{kill.region} (back in {kill.recovered_seconds:.1f} s)" for kill in self.kills)
        changes = ", ".join(
            f"a {change.kind} to {change.region} (no write for {change.blocked_seconds:.2f} s)"
            for change in self.changes
        )
        orphans = "no orphan" if not self.orphans else "1 orphan" if self.orphans == 1 else f"{self.orphans:,} orphans"
        again = tally.repeated + tally.found_done
        return (
            f"Shown: {books.acknowledged:,} transactions acknowledged and {books.refused:,} refused in"
            f" {self.traffic_seconds:.0f} s, {again:,} of them sent again and counted once, {kills} killed under"
            f" traffic, {changes}, {orphans} sealed, and all three regions equal in the end, row for row, hash for"
            f" hash and cent for cent:"
            f" {cents(books.amounts['top-up'])} topped up - {cents(books.amounts['redemption'])} redeemed ="
            f" {cents(books.money)} in the wallets."
        )


def seen_by_customers(tally: CustomerTally) -> list[EqualityCheck]:
    """What the customers must not have seen."""
    reads, stale = len(tally.read_seconds), tally.stale
    unknown = tally.not_recognised
    times = f"{_milliseconds(tally.read_seconds, 0.5)} ms p50, {_milliseconds(tally.read_seconds, 0.99)} ms p99"
    return [
        EqualityCheck(
            "replicas", "own writes read", not stale, f"{reads:,} reads in other regions, {stale} stale; {times}"
        ),
        EqualityCheck(
            "all", "repetitions", not unknown, f"{tally.repeated:,} repeated requests, {unknown} not recognised"
        ),
    ]


def _milliseconds(seconds: Sequence[float], share: float) -> float | None:
    """The value below which this share lies."""
    if not seconds:
        return None
    return round(sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))] * 1000, 1)
