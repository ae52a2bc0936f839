"""The initial copy: slot, snapshot, and everything that the tables hold, as one block.

Guarantee: the block's rows are exactly those committed before the slot's consistent point, which is its origin; the
stream begins right behind it. A copy that did not come to its end leaves a slot that this journal noted as its own
before creating it: the next attempt drops it and begins again. There is never half a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import trio

from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft
from replicator.pipeline.sources.base import Sink, SourceReport
from replicator.pipeline.sources.postgres.copy import (
    FACTS_AT_ONCE,
    CopyTable,
    copy_groups,
    estimate_rows,
    grouped,
    locks_of,
)
from replicator.pipeline.sources.postgres.definitions import can_be_binary
from replicator.pipeline.sources.postgres.open_transactions import HeldUp, open_transactions
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.publication import Publication, published_oids
from replicator.pipeline.sources.postgres.relations import RelationCache
from replicator.pipeline.sources.postgres.sequences import pack_sequences, read_sequences
from replicator.pipeline.sources.postgres.session import opened
from replicator.pipeline.sources.postgres.slot import create_slot, drop_own_slot
from replicator.pipeline.sources.postgres.wal_reader import together
from replicator.postgres.catalog import TableFacts, all_oids, read_tables
from replicator.postgres.lsn import lsn_text
from replicator.postgres.quoting import literal
from replicator.postgres.session import Connection, Worker

SLOT_NOTE = "postgres.slot"
COPY_TXID = "copy"
WATCH_SECONDS = 1.0

T = TypeVar("T")


class InitialCopy:
    """One attempt. ``sql`` is the ordinary connection, ``replication`` an idle replication connection."""

    def __init__(
        self,
        options: PostgresOptions,
        sql: Worker,
        replication: Worker,
        relations: RelationCache,
        sink: Sink,
        report: SourceReport,
    ) -> None:
        self._options = options
        self._sql = sql
        self._replication = replication
        self._relations = relations
        self._sink = sink
        self._report = report

    async def run(self, notes: dict[str, str], publication: Publication, *, text_only: bool) -> str:
        """Send the block; gives its origin."""
        name = self._options.slot
        ours = notes.get(SLOT_NOTE) == name
        await self._sql.call(partial(drop_own_slot, ours=ours), name)
        await self._sink.note(SLOT_NOTE, name)
        # From here on it only waits: for what was open when the slot is created, then for its own reading. That the
        # server can be decoded at all was looked at before.
        self._report.phase = "copying"
        self._report.copied_rows = 0
        point, snapshot = await self._make_slot(name)
        async with opened(self._options) as reader:
            await self._relations.note_before(await reader.call(_within, snapshot, all_oids))
            facts = await self._facts(reader, snapshot)
            self._report.copy_rows_estimate = await self._sql.call(estimate_rows, facts)
            binary = not text_only and can_be_binary(facts, generated=publication.generated)
            tables = [
                CopyTable(*await self._relations.first(table, publication, binary=binary), table) for table in facts
            ]
            locks, most = await self._sql.call(locks_of, [table.oid for table in facts])
            origin = lsn_text(point)
            await self._send(reader, snapshot, grouped(tables, locks, most), origin)
        return origin

    async def _make_slot(self, name: str) -> tuple[int, str]:
        """Create the slot; whoever is waited for is shown meanwhile."""
        made: list[tuple[int, str]] = []

        async def make() -> None:
            made.append(await self._replication.call(partial(create_slot, failover=self._options.failover), name))
            watching.cancel()

        with trio.CancelScope() as watching:
            await together([make, self._watch_slot])
        self._report.held_up = None
        return made[0]

    async def _watch_slot(self) -> None:
        held_up = HeldUp()
        while True:
            await trio.sleep(WATCH_SECONDS)
            oldest = (await self._sql.call(open_transactions))[:1]
            self._report.held_up = held_up.by(oldest[0] if oldest else None, "the first copy", trio.current_time())

    async def _facts(self, reader: Worker, snapshot: str) -> list[TableFacts]:
        """What the snapshot shows of the published tables."""
        oids = await reader.call(_within, snapshot, partial(published_oids, publication=self._options.publication))
        facts: list[TableFacts] = []
        for first in range(0, len(oids), FACTS_AT_ONCE):  # looking at partitions locks them
            some = partial(read_tables, oids=oids[first : first + FACTS_AT_ONCE])
            facts += await reader.call(_within, snapshot, some)
        return facts

    async def _send(self, reader: Worker, snapshot: str, groups: list[list[CopyTable]], origin: str) -> None:
        parts = copy_groups(reader.connection, self._sql.connection, snapshot, groups)
        tables = sum(map(len, groups))
        statements = -tables  # the definitions are no rows
        held = await reader.call(_next, parts)
        while held is not None:
            statements += held.statements
            self._report.copied_rows = statements
            following = await reader.call(_next, parts)
            if following is None:
                break
            await self._sink.send([held])
            held = following
        sequences = pack_sequences(await self._sql.call(read_sequences, self._options.publication))
        last = BlockPart(
            (held.statements if held else 0) + len(sequences), (held.data if held else b"") + b"".join(sequences)
        )
        committed_at = await self._sql.call(_clock)
        count = statements + tables + len(sequences)
        draft = Draft(COPY_TXID, origin, committed_at, HAS_DEFINITIONS, count, last.data)
        if count != last.statements:  # parts went ahead
            await self._sink.send([last, draft._replace(body=None)])
        else:
            await self._sink.send([draft])


def _next(_connection: Connection, parts: Iterator[BlockPart]) -> BlockPart | None:
    return next(parts, None)


def _within(connection: Connection, snapshot: str, look: Callable[[Connection], T]) -> T:
    """Look at what the exported snapshot shows, in a transaction of its own."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}".encode())
        return look(connection)


def _clock(connection: Connection) -> int:
    row = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8").fetchone()
    assert row is not None
    return int(row[0])
