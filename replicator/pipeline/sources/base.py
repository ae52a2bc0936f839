"""What a source is: the adapter that turns a ledger's change feed into drafts of blocks.

How to write one. ``run`` is called with what the journal already holds and a sink. It sends Parts and Drafts in commit
order and never returns by itself: it raises Unavailable for what can get better (it is then run again, from the
journal's new end) and Halted for what cannot. A Draft's ``origin`` is where reading goes on after a restart; the source
must not tell its ledger to forget anything before ``acknowledge(origin)`` has said that the block is durable. A
transaction that is too large for one body goes as Parts followed by a Draft without a body. Table definitions are
numbered by the source: the highest relation in ``state.relations`` + 1 is the next, and a definition is sent in or
before the first block that uses it, in a draft with the flag HAS_DEFINITIONS. Every source passes ``tests/contracts``.
``CapturedLedger`` is what a region needs of the ledger beside its feed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from replicator.config.finding import Finding
from replicator.format.block import BlockPart, Draft, Header
from replicator.format.definition import Definition
from replicator.pipeline.replicas.base import Reader, SetSequence
from replicator.pipeline.replicas.moments import Moments
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal


@dataclasses.dataclass(frozen=True, slots=True)
class SourceState:
    """What the journal holds of this source when it starts.

    ``origin`` is that of the last block that has one (the first block of an epoch has none), None if there is no such
    block yet: then the source begins with a consistent copy. ``sequence`` is that block's. ``relations`` are the
    definitions in force, ``notes`` what the source wrote down with ``sink.note``. ``headers`` gives the headers of the
    blocks that the journal holds now, the last one first; it blocks.
    """

    origin: str | None
    relations: dict[int, Definition]
    notes: dict[str, str]
    sequence: int = 0
    headers: Callable[[], Iterable[Header]] = lambda: ()


@dataclasses.dataclass(slots=True)
class SourceReport:
    """What a source tells of itself; the source keeps it current. Status shows every field of it by its name, and
    metrics those that ``status/metrics.py`` lists.

    ``kind`` is the source's, as the configuration names it. ``phase``: connecting, copying, streaming; an embedded
    ledger's is starting or serving. ``heard_at`` is the monotonic time (trio's clock, seconds) of the last
    sign of life of the whole path; ``seen`` the ledger's own log position up to which everything has been sent to the
    sink, ``stored`` that of the last block that is durable (whoever stores it writes that here), ``vouched`` that up to
    which nothing can have been left out. Bytes are None where the ledger does not tell them. ``waited_for``: whether
    the ledger's commits wait for ``acknowledge``; None where they never do, and while it is not known. ``held_up``:
    what another transaction holds up, and which one that is. Everything that the ledger committed before the monotonic
    time ``handed_over_at`` has been sent to the sink; None while that is not known.
    """

    kind: str
    phase: str = "connecting"
    seen: str | None = None
    stored: str | None = None
    vouched: str | None = None
    copied_rows: int = 0
    copy_rows_estimate: int | None = None
    retained_bytes: int | None = None
    safe_bytes: int | None = None
    duplicates: int = 0
    waited_for: bool | None = None
    held_up: str | None = None
    heard_at: float | None = None
    handed_over_at: float | None = None


class Sink(Protocol):
    """Where a source sends to. Waiting here is the backpressure."""

    async def send(self, items: Sequence[BlockPart | Draft]) -> None:
        """Hand over, in commit order. Returning does not mean durable: ``acknowledge`` does."""

    async def note(self, key: str, value: str) -> None:
        """Keep a fact beside the journal; durable on return."""


class Source(Protocol):
    """A ledger's change feed."""

    report: SourceReport

    async def run(self, state: SourceState, sink: Sink) -> None:
        """Send everything after ``state.origin``, for ever. Raises Unavailable or Halted."""

    def origin_of(self, state: SourceState) -> str | None:
        """The place in this very ledger that the journal's end stands for; None before the first copy. It is not
        ``state.origin`` where another ledger wrote the last block: that one's places mean nothing here."""

    def acknowledge(self, origin: str) -> None:
        """Everything up to ``origin`` is durable in the journal, and wherever else it has to be before the ledger may
        forget it, or tell its own client that it is safe. Called from the trio thread."""


class Captured(NamedTuple):
    """What has been captured of a ledger: the region's journal, its end, and a call that returns once everything that
    the source has handed over by now is durable."""

    journal: Journal
    head: JournalHead
    stored_so_far: Callable[[], Awaitable[None]]


class CapturedLedger(Protocol):
    """A ledger that another program keeps, and that is read from outside: all that a primary's region needs of it."""

    @property
    def source(self) -> Source:
        """Its change feed."""

    def preflight(self) -> Iterable[Finding]:
        """What ``run`` would need of it, looked at without a trace. Blocks."""

    def open_reader(self, definitions: dict[int, Definition], *, locking: bool = False) -> Reader:
        """The reading side of its tables, which ``definitions`` describe by relation. ``locking``: a moment's tables
        then stay as they are while it is held."""

    def moments(self, captured: Captured, *, locking: bool) -> Moments:
        """Its exact moments, for comparisons and copies."""

    def ask_for_copies(self, journal: Journal, labels: Sequence[str]) -> list[str]:
        """Note that these tables, by their labels, are to be copied anew when the source starts next. Blocks. Raises
        Rejected."""

    def sequences(self) -> list[SetSequence]:
        """What its sequences have handed out by now. Blocks."""
