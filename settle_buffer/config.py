"""The one configuration object.

Guarantee: a config that was built is valid; every limit has a number. Times are microseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from settle_buffer.entry import Entry
from settle_buffer.errors import Misuse

SECOND = 1_000_000
Order = Literal["sequence", "merged", "time"]
LatePolicy = Literal["halt", "quarantine", "correct"]


@dataclasses.dataclass(frozen=True, slots=True)
class AutoWindow:
    """The bounds of a window that tunes itself: at most ``miss`` of the entries may come later than it."""

    miss: float = 0.001
    least_us: int = 50_000
    most_us: int = 60 * SECOND


@dataclasses.dataclass(frozen=True, slots=True)
class SettleConfig:
    """How entries settle.

    ``order``: ``sequence`` (each strand by itself), ``merged`` (all strands by time, strand, sequence) or ``time``
    (no gapless sequence: whatever is older than the window, earliest first). ``window_us``: how long an entry may be
    on its way. In order ``merged`` a strand is waited for until its heartbeat has passed, or the window; with
    ``heartbeats_only`` the window does not count. A strand silent for ``idle_after_us`` is not waited for.

    A gap is requested ``request_after_us`` after it opened (None: after the window), again every
    ``request_every_us``, and called expired after ``expire_after_us``; it stays open. ``late`` is what becomes of an
    entry behind what was released; ``keys_of`` finds the keys of one for the policy ``correct``.

    ``entries_limit``, ``bytes_limit``, ``age_limit_us`` and ``gaps_limit`` bound what waits, on disk included;
    ``resident_entries`` and ``resident_bytes`` what of it stays in memory; ``unacknowledged_bytes`` what the consumer
    was given and has not acknowledged. ``load_entries`` are read back in one piece. ``remembered`` is the number of
    released digests kept per strand to tell a duplicate from a conflict.

    ``straight`` (order ``sequence`` only): entries that are next, behind which nothing waits, are not written to the
    spool but go to the consumer at once, and ``put`` returns when the consumer has acknowledged them: they are durable
    there. It needs a consumer in another task that acknowledges everything it is given.
    """

    order: Order = "sequence"
    window_us: int | AutoWindow = 2 * SECOND
    request_after_us: int | None = None
    request_every_us: int = 5 * SECOND
    expire_after_us: int = 300 * SECOND
    idle_after_us: int = 30 * SECOND
    heartbeats_only: bool = False
    late: LatePolicy = "halt"
    keys_of: Callable[[Entry], frozenset[bytes]] | None = None
    entries_limit: int = 20_000_000
    bytes_limit: int = 64 << 30
    age_limit_us: int = 24 * 3600 * SECOND
    gaps_limit: int = 20_000
    resident_entries: int = 100_000
    resident_bytes: int = 64 << 20
    unacknowledged_bytes: int = 1 << 30
    load_entries: int = 8_192
    remembered: int = 65_536
    straight: bool = False
    strands_limit: int = 1_024

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("request_after_us", "window_us", "remembered") else 1
            if type(value) is int and value < least:
                raise Misuse("bad_config", f"{field.name} is {value}, at least {least} is needed")
        if self.order not in ("sequence", "merged", "time") or self.late not in ("halt", "quarantine", "correct"):
            raise Misuse("bad_config", f"order {self.order!r} or late policy {self.late!r} is not known")
        if self.straight and self.order != "sequence":
            raise Misuse("bad_config", f"straight needs the order sequence; {self.order} holds entries back by time")
        if isinstance(self.window_us, AutoWindow):
            _check_auto(self.window_us)


def _check_auto(window: AutoWindow) -> None:
    if not 0 < window.miss < 1 or not 0 <= window.least_us <= window.most_us:
        raise Misuse("bad_config", f"{window} needs 0 < miss < 1 and least_us <= most_us")
