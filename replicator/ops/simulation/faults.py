"""What a plan can make go wrong, and what operators can order."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Kind = Literal[
    "region_loss",
    "partition",
    "partition_one_way",
    "slow_link",
    "sidecar_crash",
    "database_crash",
    "disk_full",
    "clock_skew",
    "lease_store_loss",
    "freeze",
    "slow_replay",
    "source_halt",
    "switchover",
    "failover",
    "pause",
    "resume",
    "rejoin",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
ORDERS = frozenset({"switchover", "failover", "pause", "resume", "rejoin"})
STORE = "lease store"


class SimulatedFault(NamedTuple):
    """A fault or an order. An empty ``region`` means the primary of that moment.

    ``other`` is the other end of a link (a region or ``"lease store"``; None: all others), or a switchover's target.
    ``amount``: of a clock skew the rate's error, of a slow link the seconds that each message takes more.
    """

    at: float
    kind: Kind
    region: str = ""
    other: str | None = None
    seconds: float = 5.0
    amount: float = 0.0
    allow_data_loss: bool = False
    reason: str = "an operator"
