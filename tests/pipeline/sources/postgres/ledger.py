"""A PostgreSQL ledger for the tests, a sink that collects, and a model that the collected blocks are applied to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from replicator.errors import ReplicatorError
from replicator.format.block import FORMAT, HAS_DEFINITIONS, BlockPart, Draft, Header
from replicator.format.definition import Column, Definition, unpack_definition
from replicator.format.row import UNCHANGED, key_image, pack_row, unpack_row
from replicator.format.statement import (
    DEFINE,
    DELETE,
    INSERT,
    MESSAGE,
    PATCH,
    SEQUENCE,
    TRUNCATE,
    UPDATE,
    unpack_statements,
)
from replicator.pipeline.sources.base import SourceState
from replicator.pipeline.sources.postgres import PostgresOptions, PostgresSource
from replicator.pipeline.sources.postgres.copy import CopyTable, copy_parts
from replicator.pipeline.sources.postgres.options import parse_table
from replicator.pipeline.sources.postgres.session import connect
from replicator.postgres.catalog import read_table, table_oid

PATIENCE_SECONDS = 30


@dataclasses.dataclass
class Taken:
    """A block as the journal would keep it."""

    draft: Draft
    body: bytes

    @property
    def statements(self) -> list[list[Any]]:
        return list(unpack_statements(self.body))

    @property
    def content(self) -> tuple[str, bytes]:
        return (self.draft.txid, self.body)


class Collector:
    """A journal in memory: durable at once, unless ``acknowledging`` is off."""

    def __init__(self, notes: dict[str, str] | None = None, blocks: Sequence[Taken] = ()) -> None:
        self.blocks: list[Taken] = list(blocks)
        self.notes = dict(notes or {})
        self.acknowledging = True
        self.largest_send = 0
        self.sends = 0
        self.parts: list[BlockPart] = []
        self.source: PostgresSource | None = None
        self.on_send: Callable[[], object] = lambda: None
        self._arrived = trio.Event()

    async def send(self, items: Sequence[BlockPart | Draft]) -> None:
        await trio.lowlevel.checkpoint()
        self.on_send()
        self.sends += 1
        size = 0
        for item in items:
            if isinstance(item, BlockPart):
                self.parts.append(item)
                size += len(item.data)
                continue
            size += len(item.body or b"")
            assert item.body is None or not self.parts, "a draft with a body behind parts"
            body = b"".join(part.data for part in self.parts) if item.body is None else item.body
            self.parts.clear()
            taken = Taken(item, body)
            assert len(taken.statements) == item.statements
            assert bool(item.flags & HAS_DEFINITIONS) == any(s[0] == DEFINE for s in taken.statements)
            self.blocks.append(taken)
        self.largest_send = max(self.largest_send, size)
        if self.acknowledging and self.blocks and self.source:
            self.source.acknowledge(self.blocks[-1].draft.origin)
        self._arrived.set()
        self._arrived = trio.Event()

    async def note(self, key: str, value: str) -> None:
        await trio.lowlevel.checkpoint()
        self.notes[key] = value

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that arrived makes this true."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not condition():
                await self._arrived.wait()

    async def until_blocks(self, count: int) -> None:
        """Wait until exactly so many blocks are here."""
        await self.until(lambda: len(self.blocks) == count)

    def state(self, count: int | None = None) -> SourceState:
        """What a journal that holds the first ``count`` blocks (all of them) tells the source."""
        blocks = self.blocks if count is None else self.blocks[:count]
        relations = {s[1]: unpack_definition(s[2]) for b in blocks for s in b.statements if s[0] == DEFINE}
        return SourceState(
            blocks[-1].draft.origin if blocks else None,
            relations,
            dict(self.notes),
            len(blocks),
            lambda: headers(blocks),
        )

    def statements(self) -> list[list[Any]]:
        return [statement for block in self.blocks for statement in block.statements]

    def messages(self) -> list[tuple[str, bytes]]:
        return [(s[1], s[2]) for s in self.statements() if s[0] == MESSAGE]

    def sequences(self) -> dict[str, int]:
        return {s[2]: s[3] for s in self.statements() if s[0] == SEQUENCE}


def headers(blocks: Sequence[Taken]) -> list[Header]:
    """The blocks' headers as a journal has them, the last one first."""
    found = []
    for sequence, block in reversed(list(enumerate(blocks, 1))):
        txid, origin, committed_at, flags, statements, _ = block.draft
        found.append(
            Header(
                FORMAT, "main", sequence, 1, txid, origin, committed_at, b"", flags, statements, len(block.body), b""
            )
        )
    return found


class Model:
    """What the blocks make of the tables: rows as cells by column name. Refuses what cannot be."""

    def __init__(self, blocks: Sequence[Taken]) -> None:
        self.definitions: dict[int, Definition] = {}
        self.rows: dict[str, dict[Any, dict[str, Any]]] = {}
        self.appended = 0
        for block in blocks:
            for statement in block.statements:
                self._apply(*statement)

    def _apply(self, op: int, relation: Any, *rest: Any) -> None:
        if op == DEFINE:
            definition = unpack_definition(rest[0])
            self.definitions[relation] = definition
            self._follow(definition)
            return
        if op in (MESSAGE, SEQUENCE):
            return
        definition = self.definitions[relation]
        rows = self.rows[definition.label]
        if op == TRUNCATE:
            rows.clear()
        elif op == DELETE:
            del rows[rest[0]]
        else:
            self._write(op, definition, rows, *rest)

    def _write(self, op: int, definition: Definition, rows: dict[Any, Any], image: bytes, before: Any = None) -> None:
        cells = unpack_row(image)
        if not definition.key:
            assert op == INSERT
            self.appended += 1
            rows[self.appended] = _named(definition, cells)
            return
        key = key_image(image, definition.key_places)
        if op == INSERT:
            assert key not in rows
            assert UNCHANGED not in cells
            rows[key] = _named(definition, cells)
            return
        old = rows.pop(before or key)
        assert key not in rows
        assert (UNCHANGED in cells) == (op == PATCH)
        assert op in (UPDATE, PATCH)
        new = _named(definition, cells)
        rows[key] = {name: old[name] if value is UNCHANGED else value for name, value in new.items()}

    def _follow(self, definition: Definition) -> None:
        """Existing rows take the definition's columns; formats may only change while there are no rows to re-read."""
        rows = self.rows.setdefault(definition.label, {})
        for row in rows.values():
            for column in definition.columns:
                row.setdefault(column.name, _missing(column))

    def images(self, label: str) -> list[bytes]:
        """The rows in the current definition's columns, sorted."""
        definition = [d for d in self.definitions.values() if d.label == label][-1]
        names = [column.name for column in definition.columns]
        return sorted(pack_row([row[name] for name in names]) for row in self.rows[label].values())


def _missing(column: Column) -> bytes | None:
    """What rows older than the column hold, in its format."""
    if column.missing is None or column.format == "text" or column.type == "text":
        return None if column.missing is None else column.missing.encode()
    assert column.type == "integer"
    return int(column.missing).to_bytes(4, "big")


def _named(definition: Definition, cells: list[Any]) -> dict[str, Any]:
    return dict(zip([column.name for column in definition.columns], cells, strict=True))


class Ledger:
    """A database with a source's options, and connections into it."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.dsn = dsn
        self.name = str(conninfo_to_dict(dsn)["dbname"])
        settings = {"slot": self.name, "heartbeat_seconds": 0.2, "sequence_seconds": 0, **options}
        self.options = PostgresOptions(dsn=dsn, **settings)
        self.sql = psycopg.connect(dsn, autocommit=True)

    def do(self, *statements: str) -> None:
        for statement in statements:
            self.sql.execute(statement.encode())

    def ask(self, query: str) -> Any:
        row = self.sql.execute(query.encode()).fetchone()
        return row[0] if row else None

    def together(self, *statements: str) -> None:
        """In one transaction."""
        with self.sql.transaction():
            self.do(*statements)

    def images(self, definition: Definition) -> list[bytes]:
        """The table's rows now, read from the server in the definition's columns and format, sorted."""
        with connect(self.options) as connection:
            oid = table_oid(connection, definition.name)
            assert oid is not None
            facts = read_table(connection, oid)
            assert facts is not None
            parts = copy_parts(connection, [CopyTable(1, definition, facts)])
            statements = [s for part in parts for s in unpack_statements(part.data)]
        return sorted(s[2] for s in statements if s[0] == INSERT)

    def close(self) -> None:
        self.sql.close()
        with psycopg.connect(self.dsn, dbname="postgres", autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active",
                (self.options.slot,),
            )
            for _ in range(200):
                rows = connection.execute(
                    "SELECT active, pg_sleep(0.02) FROM pg_replication_slots WHERE slot_name = %s", (self.options.slot,)
                ).fetchall()
                if not rows:
                    return
                if not rows[0][0]:
                    connection.execute("SELECT pg_drop_replication_slot(%s)", (self.options.slot,))
                    return


@contextlib.asynccontextmanager
async def following(ledger: Ledger, sink: Collector, state: SourceState | None = None) -> AsyncIterator[PostgresSource]:
    """A source that runs for the length of the block, which begins once there is a copy.

    The source's error, if it fails, comes out of the block.
    """
    source = PostgresSource(ledger.options)
    sink.source = source
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, state or sink.state(), sink)
            await sink.until(lambda: bool(sink.blocks))  # the copy is there
            yield source
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def failure(
    ledger: Ledger, sink: Collector, *statements: str, act: Callable[[], Awaitable[None]] | None = None
) -> ReplicatorError:
    """The error that a source ends with while these statements, and then ``act``, are done."""
    try:
        async with following(ledger, sink):
            ledger.do(*statements)
            if act is not None:
                await act()
            await trio.sleep(PATIENCE_SECONDS)  # the error ends it
    except ReplicatorError as error:
        return error
    raise AssertionError("the source did not fail")


async def caught_up(ledger: Ledger, sink: Collector) -> None:
    """Wait until everything that is committed now has arrived: a message that is sent last marks it."""
    mark = ledger.ask("SELECT gen_random_uuid()::text")
    ledger.do(f"SELECT pg_logical_emit_message(true, 'mark', '{mark}')")
    await sink.until(lambda: ("mark", mark.encode()) in _tail_messages(sink))


def _tail_messages(sink: Collector) -> list[tuple[str, bytes]]:
    small = [block for block in sink.blocks[-50:] if block.draft.statements < 10]
    return [(s[1], s[2]) for block in small for s in block.statements if s[0] == MESSAGE]


def assert_equal(ledger: Ledger, sink: Collector, *labels: str) -> None:
    """The blocks make the same rows of the tables as the server has."""
    model = Model(sink.blocks)
    for label in labels:
        definition = [d for d in model.definitions.values() if d.name == parse_table(label)][-1]
        assert model.images(label) == ledger.images(definition), label
