"""A table that is copied anew into the ledger that it is part of: the way out where it cannot be carried on.

A table that was dropped and made again, renamed, or got another key or types that older rows do not have, halts the
source: what its rows are by now stands nowhere in the log. Asked for it, the source copies such tables from a snapshot
of exactly one place in the log and goes on: one block empties them, defines them and holds their rows; their changes
up to the snapshot's place are passed over when they come, for they are in it; all other tables are carried as ever.

Guarantee: no commit of another table is lost, doubled or delayed. Until the log has come to the snapshot's place, the
copied tables are ahead of the others; from there on all are of one moment again. It may be killed anywhere: what was
asked for is noted until its block is durable, and is done again from its beginning; the places up to which changes are
passed over are noted before that block is.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import trio

from replicator.errors import Halted, Rejected
from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft, Header
from replicator.format.definition import table_label
from replicator.format.statement import pack_truncate
from replicator.pipeline.sources.base import Sink, SourceReport
from replicator.pipeline.sources.postgres.copy import CopyTable, copy_groups, estimate_rows
from replicator.pipeline.sources.postgres.definitions import can_be_binary
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.publication import Publication, published_oids
from replicator.pipeline.sources.postgres.relations import RelationCache
from replicator.pipeline.sources.postgres.session import opened, session
from replicator.pipeline.sources.postgres.slot import create_slot
from replicator.postgres.catalog import TableFacts, TableName, read_tables
from replicator.postgres.lsn import lsn_text
from replicator.postgres.quoting import literal
from replicator.postgres.session import Connection, Worker
from replicator.storage.journal.store import Journal

RECOPY_NOTE = "postgres.recopy"
RECOPIED_NOTE = "postgres.recopied"  # the id of the last request that is done
TXID_PREFIX = "recopy-"
LOOK_SECONDS = 0.05
LOOK_BACK_BLOCKS = 1_000
SMALL_BYTES = 1 << 20  # of a block that is sent in one piece


class RecopyRequest(NamedTuple):
    """Tables that are to be copied anew; ``id`` is the request's, and names its block."""

    id: str
    tables: tuple[TableName, ...]

    @property
    def txid(self) -> str:
        """The block's transaction."""
        return f"{TXID_PREFIX}{self.id}"


def ask_for_copies(options: PostgresOptions, journal: Journal, labels: Sequence[str]) -> list[str]:
    """Note that these published tables are to be copied anew when the source starts next; their labels. Blocks. Raises
    Rejected if there is none of such a name, or none was copied before."""
    with session(options) as connection:
        published = {facts.name for facts in read_tables(connection, published_oids(connection, options.publication))}
    names = []
    for label in dict.fromkeys(labels):
        schema, dot, table = label.partition(".")
        name = (schema, table) if dot else ("public", schema)
        if name not in published:
            message = "the publication has no such table"
            cure = "name a table that it publishes, as schema.table"
            raise Rejected("unknown_table", message, status=404, place=f"table {label:.200}", cure=cure)
        names.append(name)
    pending = read_request(journal.notes())
    tables = tuple(dict.fromkeys([*(pending.tables if pending else ()), *names]))
    journal.set_note(RECOPY_NOTE, json.dumps({"id": uuid.uuid4().hex[:16], "tables": tables}))
    return [table_label(*name) for name in names]


def read_request(notes: dict[str, str]) -> RecopyRequest | None:
    """What was asked for and is not known to be done."""
    text = notes.get(RECOPY_NOTE)
    if not text:
        return None
    try:
        fields = json.loads(text)
        tables = tuple((str(schema), str(table)) for schema, table in fields["tables"])
        request = RecopyRequest(str(fields["id"]), tables)
    except (ValueError, KeyError, TypeError) as error:
        message = f"which tables are to be copied anew cannot be read: {error!r}"
        raise Halted("bad_note", message, place=f"journal, note {RECOPY_NOTE}", cure="ask for it again") from error
    return None if notes.get(RECOPIED_NOTE) == request.id else request


class TableRecopy:
    """One attempt at a request, behind the block whose place in the log is ``origin``."""

    def __init__(
        self,
        options: PostgresOptions,
        sql: Worker,
        relations: RelationCache,
        sink: Sink,
        report: SourceReport,
        headers: Callable[[], Iterable[Header]],
    ) -> None:
        self._options = options
        self._sql = sql
        self._relations = relations
        self._sink = sink
        self._report = report
        self._headers = headers

    async def run(self, request: RecopyRequest, publication: Publication, origin: int, *, text_only: bool) -> None:
        """Send the block, unless it is there; returns when it is durable, and noted as done."""
        if not await trio.to_thread.run_sync(self._is_stored, request.txid):
            await self._copy(request, publication, origin, text_only=text_only)
            while not await trio.to_thread.run_sync(self._is_stored, request.txid):  # noqa: ASYNC110  # a file's word
                await trio.sleep(LOOK_SECONDS)
        # Beside the request, not in its place: another one may have come meanwhile, and was promised.
        await self._sink.note(RECOPIED_NOTE, request.id)

    def _is_stored(self, txid: str) -> bool:
        return any(header.txid == txid for header in islice(self._headers(), LOOK_BACK_BLOCKS))

    async def _copy(self, request: RecopyRequest, publication: Publication, origin: int, *, text_only: bool) -> None:
        self._report.phase = "copying"
        self._report.copied_rows = 0
        async with opened(self._options, replication=True) as replication, opened(self._options) as reader:
            # The slot goes with its session: it only gives a place in the log and what was there. Each attempt has one
            # of its own: the server may not have noticed yet that the one before was killed.
            name = f"{self._options.slot[:40]}_recopy_{uuid.uuid4().hex[:8]}"
            point, snapshot = await replication.call(partial(create_slot, temporary=True), name)
            facts = await reader.call(_facts, snapshot, self._options.publication, request.tables)
            self._report.copy_rows_estimate = await self._sql.call(estimate_rows, facts)
            binary = not text_only and can_be_binary(facts, generated=publication.generated)
            emptied = [pack_truncate(number) for table in facts for number in self._relations.relations_of(table)]
            for table in facts:
                await self._relations.pass_over(table, point)
            tables = [
                CopyTable(*await self._relations.first(table, publication, binary=binary), table) for table in facts
            ]
            parts = copy_groups(reader.connection, self._sql.connection, snapshot, [[table] for table in tables])
            committed_at = await self._sql.call(_clock)
            await self._send(reader, parts, emptied, request.txid, lsn_text(origin), committed_at)

    async def _send(
        self,
        reader: Worker,
        parts: Iterator[BlockPart],
        emptied: Sequence[bytes],
        txid: str,
        origin: str,
        committed_at: int,
    ) -> None:
        held, count = BlockPart(len(emptied), b"".join(emptied)), len(emptied)
        is_large = False
        while (part := await reader.call(_next, parts)) is not None:
            count += part.statements
            self._report.copied_rows = count
            if is_large or len(held.data) + len(part.data) > SMALL_BYTES:
                await self._sink.send([held])
                held, is_large = part, True
            else:
                held = BlockPart(held.statements + part.statements, held.data + part.data)
        draft = Draft(txid, origin, committed_at, HAS_DEFINITIONS, count, None if is_large else held.data)
        await self._sink.send([held, draft] if is_large else [draft])


def _facts(connection: Connection, snapshot: str, publication: str, names: Sequence[TableName]) -> list[TableFacts]:
    """What the snapshot shows of these tables; those that are gone by now are left out."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}".encode())
        every = read_tables(connection, published_oids(connection, publication))
        return [table for table in every if table.name in names]


def _next(_connection: Connection, parts: Iterator[BlockPart]) -> BlockPart | None:
    return next(parts, None)


def _clock(connection: Connection) -> int:
    row = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8").fetchone()
    assert row is not None
    return int(row[0])
