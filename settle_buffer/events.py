"""What the buffer says: events out of the pure core.

Guarantee: the order of the events is the order of the facts. ``Release`` is the only event that hands entries over for
good; every other one is a notice, a request, or a question that the caller's I/O answers (``Load``).
"""

from __future__ import annotations

from typing import NamedTuple

from settle_buffer.entry import Entry


class Release(NamedTuple):
    """Settled entries, in order. ``strand`` is None where entries of several strands are mixed."""

    strand: str | None
    entries: list[Entry]


class Correction(NamedTuple):
    """A late entry under the policy ``correct``: what is behind it must be derived anew.

    ``keys`` are those that the configured function found in the entry, None if there is no such function: then
    everything released from ``first`` to ``last`` (event times in order ``time`` and ``merged``, sequences else).
    """

    entry: Entry
    keys: frozenset[bytes] | None
    first: int
    last: int


class Certificate(NamedTuple):
    """How a gap was closed, and how that is known.

    ``how`` is ``filled`` or ``waived``; ``known_by`` says ``links`` (every entry names the one before), ``entries``
    (they are there, the feed has no links) or ``operator``. Times are microseconds of the caller's clock.
    """

    strand: str
    first: int
    last: int
    opened_at: int
    closed_at: int
    requests: int
    how: str
    known_by: str
    who: str
    why: str


class GapOpened(NamedTuple):
    """Sequences are missing; nothing behind them is released."""

    strand: str
    first: int
    last: int


class GapRequest(NamedTuple):
    """Please fetch ``first`` to ``last`` from the feed; ``attempt`` counts from 1."""

    strand: str
    first: int
    last: int
    attempt: int


class GapExpired(NamedTuple):
    """The gap was not filled in the time allowed. It stays open: only its entries or a waiver close it."""

    strand: str
    first: int
    last: int


class GapFilled(NamedTuple):
    """The last missing entry came. No ``certificate`` if it came before it was asked for: that is mere reordering."""

    strand: str
    first: int
    last: int
    opened_at: int
    certificate: Certificate | None


class GapWaived(NamedTuple):
    """An operator took the responsibility for entries that will not come."""

    certificate: Certificate


class Duplicate(NamedTuple):
    """Entries that were there already, dropped. ``unproven`` of them were released so long ago that their digests are
    no longer known here: they were not compared."""

    strand: str
    copies: int
    unproven: int


class Conflict(NamedTuple):
    """Two entries claim one place; the strand stops. ``kind`` is ``digest`` (one sequence, two contents) or ``link``
    (``other`` names another predecessor than ``digest``). ``mine`` is None if it was released and is no longer held."""

    strand: str
    sequence: int
    kind: str
    digest: bytes
    mine: Entry | None
    other: Entry


class Late(NamedTuple):
    """An entry behind what was released. ``by_us``: how far behind in event time, 0 where only the sequence tells."""

    entry: Entry
    policy: str
    by_us: int


class Stopped(NamedTuple):
    """The strand releases nothing more until it is resumed."""

    strand: str
    reason: str


class Idle(NamedTuple):
    """The strand no longer holds the others back (``idle``), or does again."""

    strand: str
    idle: bool


class Pressure(NamedTuple):
    """The buffer is full (``on``) or has room again. ``bound`` names which bound: entries, bytes, age or gaps."""

    on: bool
    bound: str


class Load(NamedTuple):
    """Spilled entries are due: read them from the spool and answer with ``loaded``."""

    strand: str
    first: int
    last: int


class SpoolSetAside(NamedTuple):
    """The spool file was damaged: it now has the name ``path``, and a new one was begun; the feed is read again."""

    path: str


Event = (
    Release
    | Correction
    | GapOpened
    | GapRequest
    | GapExpired
    | GapFilled
    | GapWaived
    | Duplicate
    | Conflict
    | Late
    | Stopped
    | Idle
    | Pressure
    | Load
    | SpoolSetAside
)
