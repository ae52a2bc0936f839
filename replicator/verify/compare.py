"""Comparing two regions at one position: digests first, rows only where digests differ.

Guarantee: equal is said only if both sides have the same tables, the same columns and keys, and in each table the same
rows, each as often. Memory is bounded by the rows of the buckets that are looked at in one go, and by what is listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import trio

from replicator.errors import ReplicatorError
from replicator.format.canonical import texts_of
from replicator.format.digest import EMPTY, Digest, differing_buckets
from replicator.pipeline.replicas.base import KeyedLine
from replicator.supervise import first_cause
from replicator.verify.diagnosis import Diagnosis, diagnose
from replicator.verify.evidence import Evidence, KeyQuestion
from replicator.verify.side import Side, TableHead, TableUnread

BUCKETS = 4096
ROWS_AT_ONCE = 200_000  # of both sides, in buckets that differ
EVIDENCE_AT_ONCE = 100
NOT_CARRIED = "column_not_carried"
DROPPED_CURE = "it keeps them until it is made anew: replicator bootstrap CONFIG --replace"

Values = dict[str, str | None]
T = TypeVar("T")


class Difference(NamedTuple):
    """A key whose rows differ; None where a side has no such row. ``key`` and rows by column name; ``key_line`` as in
    ``format/canonical.py``."""

    table: str
    key: Values
    primary: Values | None
    replica: Values | None
    diagnosis: Diagnosis | None = None
    evidence: Evidence | None = None
    key_line: bytes = b""


class TableResult(NamedTuple):
    """One table: how many rows each side has, how many keys differ, and the first of them. ``problem`` says what keeps
    the table from being compared by rows: it is missing on one side, or has other columns there. ``unread``: it could
    not be read, so nothing is known of it. ``of_primary``: the problem is the primary's alone, so this copy lacks
    nothing that the ledger's blocks hold. The digests are those of the whole table."""

    table: str
    primary_rows: int
    replica_rows: int
    different: int
    differences: list[Difference]
    problem: str = ""
    primary_digest: str = ""
    replica_digest: str = ""
    unread: bool = False
    of_primary: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether the table was compared, and nothing differs."""
        return not self.different and not self.problem

    @property
    def differs(self) -> bool:
        """Whether it is known to differ; a table that could not be read is neither equal nor different."""
        return not self.is_equal and not self.unread


class _LinePair(NamedTuple):
    """A key line, and the row's line on each side; None: that side has no such row."""

    key: bytes
    primary: bytes | None
    replica: bytes | None


async def compare_sides(
    primary: Side, replica: Side, listed: int, rows_at_once: int = ROWS_AT_ONCE
) -> list[TableResult]:
    """Each table's result, with at most ``listed`` differences in it; ``rows_at_once`` bounds what is in memory."""
    labels = sorted(primary.tables.keys() | replica.tables.keys())
    return [await compare_table(primary, replica, label, listed, rows_at_once) for label in labels]


async def compare_table(
    primary: Side, replica: Side, label: str, listed: int, rows_at_once: int = ROWS_AT_ONCE
) -> TableResult:
    """One table's result, as ``compare_sides`` has it."""
    unread: ReplicatorError | None = None
    try:
        return await _compared(primary, replica, label, listed, rows_at_once)
    except* TableUnread as group:
        unread = first_cause(group)
    assert unread is not None  # an except* may not return
    cure = f" ({unread.cure})" if unread.cure else ""
    if unread.reason == NOT_CARRIED:
        return TableResult(label, 0, 0, 0, [], unread.message + cure, of_primary=True)
    return TableResult(label, 0, 0, 0, [], f"it could not be read: {unread.message}{cure}", unread=True)


async def _compared(primary: Side, replica: Side, label: str, listed: int, rows_at_once: int) -> TableResult:
    head, other = primary.tables.get(label), replica.tables.get(label)
    problem, of_primary = _problem(head, other)

    async def digests(side: Side) -> dict[int, Digest]:
        is_readable = label in side.tables and not any(table and table.flaw for table in (head, other))
        return await side.digests(label, BUCKETS) if is_readable else {}

    mine, theirs = await _of_both(digests, primary, replica)
    totals = [sum(digests.values(), EMPTY) for digests in (mine, theirs)]
    if head is None and other is not None and not other.flaw:
        # Dropped there: nothing can come of it any more. An empty one is what a copy of the primary has.
        problem = f"{problem}; here it has {totals[1].rows:,} rows ({DROPPED_CURE})" if totals[1].rows else ""
    digests_told = str(totals[0]), str(totals[1])
    result = TableResult(label, totals[0].rows, totals[1].rows, 0, [], problem, *digests_told, False, of_primary)
    if head is None or result.problem or mine == theirs:
        return result
    different, pairs = 0, list[_LinePair]()
    for wanted in _groups(differing_buckets(mine, theirs), mine, theirs, rows_at_once):
        for pair in differing_rows(*await _of_both(_rows_of(label, wanted), primary, replica)):
            different += 1
            if len(pairs) < listed:
                pairs.append(pair)
    differences = await _explained(primary, replica, head, pairs)
    return result._replace(different=different, differences=differences)


def _rows_of(label: str, wanted: Sequence[int]) -> Callable[[Side], Awaitable[list[KeyedLine]]]:
    return lambda side: side.rows(label, BUCKETS, wanted)


async def _of_both(ask: Callable[[Side], Awaitable[T]], primary: Side, replica: Side) -> tuple[T, T]:
    """Both sides' answers, asked at the same time, for each may take minutes."""
    answers: list[T | None] = [None, None]

    async def keep(place: int, side: Side) -> None:
        answers[place] = await ask(side)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, 0, primary)
        nursery.start_soon(keep, 1, replica)
    return answers[0], answers[1]  # type: ignore[return-value]  # the nursery ends with both


def differing_rows(primary: Sequence[KeyedLine], replica: Sequence[KeyedLine]) -> Iterator[_LinePair]:
    """The keys whose rows differ, in the order of their lines; a row that stands more often on one side comes once for
    each time. Pure."""
    mine, theirs = Counter(primary), Counter(replica)
    # Counted, not only collected: in a table without a key a row may stand several times.
    only_mine, only_theirs = sorted((mine - theirs).elements()), sorted((theirs - mine).elements())
    of_key: dict[bytes, list[bytes]] = {}
    for key, line in only_theirs:
        of_key.setdefault(key, []).append(line)
    pairs = []
    for key, line in only_mine:
        other = of_key[key].pop(0) if of_key.get(key) else None
        pairs.append(_LinePair(key, line, other))
    pairs += [_LinePair(key, None, line) for key, lines in of_key.items() for line in lines]
    yield from sorted(pairs, key=lambda pair: pair.key)


async def _explained(primary: Side, replica: Side, head: TableHead, pairs: Sequence[_LinePair]) -> list[Difference]:
    """The pairs with their diagnosis. The replica's journal is asked: it is proven by the same chain, and nearer."""
    differences: list[Difference] = []
    for at in range(0, len(pairs), EVIDENCE_AT_ONCE):
        batch = pairs[at : at + EVIDENCE_AT_ONCE]
        evidence = await replica.evidence(head.label, [KeyQuestion(p.key, (p.primary, p.replica)) for p in batch])
        for pair, pair_evidence in zip(batch, evidence, strict=True):
            lines = {primary.name: pair.primary, replica.name: pair.replica}
            differences.append(_difference(head, pair, diagnose(lines, pair_evidence), pair_evidence))
    return differences


def _difference(head: TableHead, pair: _LinePair, diagnosis: Diagnosis, evidence: Evidence) -> Difference:
    def named(line: bytes | None) -> Values | None:
        return None if line is None else dict(zip(head.columns, texts_of(line), strict=True))

    key = dict(zip(head.key, texts_of(pair.key), strict=True)) if head.key else {}
    return Difference(head.label, key, named(pair.primary), named(pair.replica), diagnosis, evidence, pair.key)


def _groups(
    wanted: Sequence[int], mine: dict[int, Digest], theirs: dict[int, Digest], rows_at_once: int
) -> Iterator[list[int]]:
    """Buckets in groups whose rows fit into memory."""
    group: list[int] = []
    rows = 0
    for bucket in wanted:
        size = mine.get(bucket, EMPTY).rows + theirs.get(bucket, EMPTY).rows
        if group and rows + size > rows_at_once:
            yield group
            group, rows = [], 0
        group.append(bucket)
        rows += size
    if group:
        yield group


def _problem(primary: TableHead | None, replica: TableHead | None) -> tuple[str, bool]:
    """What keeps the table from being compared, and whether that is the primary's alone."""
    if primary is not None and primary.flaw:
        return f"on the primary: {primary.flaw}", True
    if replica is not None and replica.flaw:
        return f"on the replica: {replica.flaw}", False
    if primary is None:
        return "the primary has no such table", True
    if replica is None:
        return "the replica has no such table", False
    if primary.key != replica.key:
        return f"the key is ({', '.join(primary.key)}) on the primary, ({', '.join(replica.key)}) on the replica", False
    if primary.columns != replica.columns:
        only = sorted(set(primary.columns) ^ set(replica.columns))
        return f"columns on one side only: {', '.join(only)}", False
    return "", False
