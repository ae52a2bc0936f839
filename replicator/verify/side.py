"""One side of a comparison: a region at one exact position, its digests and its rows.

Guarantee: everything that a side says belongs to the position that it names. ``LocalSide`` asks a reader of this
process, in a worker thread; ``remote.py`` asks another region. A pace keeps a background reader within its budget.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

import trio

from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.format.canonical import line_of
from replicator.format.digest import Digest, TableDigest, bucket_of
from replicator.format.position import Position, genesis
from replicator.pipeline.replicas.base import KeyedLine, Reader
from replicator.pipeline.replicas.moments import Moment, Moments
from replicator.verify.evidence import Evidence, KeyQuestion, Witness

BUSY_FACTOR = 10
PAUSE_SECONDS = 60.0
T = TypeVar("T")
OF_ONE_TABLE = ("replica_locked", "table_changed")  # what keeps one table from being read now, and no other
CHUNKS_AT_ONCE = 8  # of some thousand rows, between two looks at whether to stop


class TableHead(NamedTuple):
    """A table's name, its columns in line order, and its key; no key: every row stands for itself. ``flaw`` is why this
    side cannot show it as the ledger defines it."""

    label: str
    columns: list[str]
    key: list[str]
    flaw: str = ""


class TableUnread(ReplicatorError):
    """One table cannot be read now; the others may be."""


class Side(Protocol):
    """A region at one position."""

    name: str
    position: Position
    tables: dict[str, TableHead]

    async def pause(self) -> Position:
        """Hold replay, so that this side is not ahead of the other one; it ends by itself."""

    async def go_on(self) -> None:
        """Let replay go on."""

    async def fix(self, at: int | None) -> None:
        """Fix the moment that everything is asked of: at a sequence, or now."""

    async def end(self) -> None:
        """Let the moment go."""

    async def digests(self, label: str, buckets: int) -> dict[int, Digest]:
        """A table's digests by bucket; empty buckets are left out. Raises TableUnread."""

    async def rows(self, label: str, buckets: int, wanted: Sequence[int]) -> list[KeyedLine]:
        """The rows of these buckets. Raises TableUnread."""

    async def evidence(self, label: str, questions: Sequence[KeyQuestion]) -> list[Evidence]:
        """What this region's journal says of these keys, up to the position."""


class Pace:
    """A reader's budget: at most so many rows a second, on average; ``math.inf``: as fast as it goes. While ``busy``
    says so, a tenth."""

    def __init__(self, rows_per_second: float, busy: Callable[[], bool] = lambda: False) -> None:
        self._seconds_per_row = 0.0 if math.isinf(rows_per_second) else 1 / rows_per_second
        self._busy = busy
        self._due = -math.inf

    async def take(self, rows: int) -> None:
        """So many rows were read: rest until they may have been."""
        # From now on, not from when the budget was last used: time in which nothing was read is not saved up.
        slower = BUSY_FACTOR if self._busy() else 1
        self._due = max(self._due, trio.current_time()) + rows * self._seconds_per_row * slower
        await trio.sleep_until(self._due)


class LocalSide:
    """This process' own region, read at ``pace``. ``fix`` it first, ``end`` it after use."""

    def __init__(self, name: str, moments: Moments, witness: Witness) -> None:
        self.name = name
        self.position: Position = genesis("main")
        self.tables: dict[str, TableHead] = {}
        self.pace = Pace(math.inf)
        self._moments = moments
        self._witness = witness
        self._open_moment: Moment | None = None

    @property
    def _moment(self) -> Moment:
        assert self._open_moment is not None, "fix() comes first"
        return self._open_moment

    async def pause(self) -> Position:
        return await self._moments.pause(PAUSE_SECONDS)

    async def go_on(self) -> None:
        self._moments.release()

    async def fix(self, at: int | None) -> None:
        await self.end()
        self._open_moment = await self._moments.fix(at)
        self.position = self._open_moment.position
        self.tables = await trio.to_thread.run_sync(self._look)

    async def end(self) -> None:
        moment, self._open_moment = self._open_moment, None
        if moment is not None:
            with trio.CancelScope(shield=True):  # an open snapshot keeps a database from cleaning up
                await trio.to_thread.run_sync(moment.reader.close)

    def _look(self) -> dict[str, TableHead]:
        return {head.label: head for head in table_heads(self._moment)}

    async def digests(self, label: str, buckets: int) -> dict[int, Digest]:
        digest = TableDigest(label, buckets)
        async for _ in self.collect(digest, label):
            pass
        return digest.buckets()

    async def rows(self, label: str, buckets: int, wanted: Sequence[int]) -> list[KeyedLine]:
        return [row async for rows in self.pick(label, buckets, wanted) for row in rows]

    async def collect(self, digest: TableDigest, label: str) -> AsyncIterator[int]:
        """Read a table into its digest; how many rows that were, a step at a time."""
        chunks = self._moment.reader.lines(label)
        while (rows := await trio.to_thread.run_sync(_reading, label, _digest_some, digest, chunks)) is not None:
            await self.pace.take(rows)
            yield rows

    async def pick(self, label: str, buckets: int, wanted: Sequence[int]) -> AsyncIterator[list[KeyedLine]]:
        """The rows of these buckets, a step at a time."""
        chunks, bucket_set = self._moment.reader.lines(label), frozenset(wanted)
        while (
            rows := await trio.to_thread.run_sync(_reading, label, _pick_some, chunks, buckets, bucket_set)
        ) is not None:
            yield rows

    async def evidence(self, label: str, questions: Sequence[KeyQuestion]) -> list[Evidence]:
        held = await trio.to_thread.run_sync(held_keys, self._moment.reader, self.position.strand)
        evidence = await self._witness.evidence(label, questions, self.position.sequence)
        waiting = held.get(label, set())
        return [e._replace(held=q.key in waiting) for q, e in zip(questions, evidence, strict=True)]


def held_keys(reader: Reader, strand: str) -> dict[str, set[bytes]]:
    """The key lines, by table, of which statements are in quarantine."""
    return {label: set(map(line_of, keys)) for label, keys in reader.quarantine().keys(strand).items()}


def table_heads(moment: Moment) -> Iterator[TableHead]:
    """The tables of a moment, as both sides must name and order them to be compared."""
    flaws = moment.reader.flaws()
    for definition in moment.reader.tables():
        names = [column.name for column in definition.columns]
        rest = sorted(set(names) - set(definition.key))
        flaw = flaws.pop(definition.label, "")
        yield TableHead(definition.label, [*definition.key, *rest], list(definition.key), flaw)
    for label, flaw in flaws.items():  # of tables that no block has told of
        yield TableHead(label, [], [], flaw)


def _reading(label: str, read: Callable[..., T], *args: Any) -> T:
    """``read(*args)``; what is wrong with this table alone is no reason to give up the others."""
    try:
        return read(*args)
    except Halted as error:
        raise TableUnread(error.reason, error.message, place=f"table {label}", cure=error.cure) from error
    except Unavailable as error:
        if error.reason not in OF_ONE_TABLE:
            raise
        raise TableUnread(error.reason, error.message, place=f"table {label}", cure=error.cure) from error


def _digest_some(digest: TableDigest, chunks: Iterator[list[KeyedLine]]) -> int | None:
    """Take some chunks; how many rows that were, None at the end."""
    rows = 0
    batch = list(islice(chunks, CHUNKS_AT_ONCE))
    for chunk in batch:
        digest.add(chunk)
        rows += len(chunk)
    return rows if batch else None


def _pick_some(chunks: Iterator[list[KeyedLine]], buckets: int, wanted: frozenset[int]) -> list[KeyedLine] | None:
    batch = list(islice(chunks, CHUNKS_AT_ONCE))
    if not batch:
        return None
    return [(key, line) for chunk in batch for key, line in chunk if bucket_of(key, buckets) in wanted]
