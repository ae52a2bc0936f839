"""Reading the write-ahead log's stream: drafts go to the sink, the server is kept informed.

Guarantee: drafts go to the sink in commit order, each once; the server is told to forget only what was acknowledged
as durable, or, while nothing is in flight, what holds nothing for us and was noted as passed. Unsent work is bounded.
Where commits wait for us (``synchronous``) the server is told at once, also of what holds nothing for us. It is told of
no place that had not arrived when what the stream rests on was last found unchanged (``stream_basis``).

Five tasks. The reader collects what is at hand without waiting, and sends it as one batch. The status writer speaks
to the server in time even while the reader waits for the sink. The heartbeat and the sequence poll use the ordinary
connection; the look at what the stream rests on has one of its own: commits may wait for it.
"""

from __future__ import annotations

import logging
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from replicator.errors import Halted
from replicator.format.block import Draft
from replicator.pipeline.sources.base import Sink, SourceReport
from replicator.pipeline.sources.postgres.definitions import Relation, parse_relation
from replicator.pipeline.sources.postgres.open_transactions import HeldUp, OpenTransaction, holding_slot
from replicator.pipeline.sources.postgres.options import HEARTBEAT_PREFIX, IGNORED_NAMESPACE, PostgresOptions
from replicator.pipeline.sources.postgres.pgoutput import RELATION, XLOG_HEADER_BYTES, Assembler, Unresolved
from replicator.pipeline.sources.postgres.relations import RelationCache, TextFormatNeeded
from replicator.pipeline.sources.postgres.reread import Reread
from replicator.pipeline.sources.postgres.sequences import (
    SEQUENCES_TXID,
    SequenceValue,
    pack_sequences,
    read_sequences,
)
from replicator.pipeline.sources.postgres.slot import Slot, read_slot, written_lsn
from replicator.pipeline.sources.postgres.standby import is_waited_for
from replicator.pipeline.sources.postgres.stream import KEEPALIVE, XLOG_DATA, ReplicationStream, read_keepalive
from replicator.pipeline.sources.postgres.stream_basis import BasisWatch
from replicator.postgres.lsn import lsn_text, parse_lsn
from replicator.postgres.session import Connection, Worker

IDLE_NOTE = "postgres.idle"
BATCH_DRAFTS = 2000
BATCH_BYTES = 1 << 20
STATUS_SECONDS = 10
STATUS_PAUSE_SECONDS = 0.1
ASK_AFTER_SECONDS = 20
SEGMENT_BYTES = 16 << 20  # of the server's log, as it is by default
LOOK_SECONDS = 5.0  # between two looks at what the stream rests on, where there is no heartbeat

log = logging.getLogger("replicator.source")


class StoredProgress:
    """How far the log may be forgotten, as LSNs; shared by the source, whose ``acknowledge`` moves it, and its readers.

    ``acknowledged`` is the origin of the last block that is safe, ``idle`` the end of log that held nothing for us.
    ``vouched`` is the place up to which the stream is known to be whole: nothing behind it may be forgotten.
    ``wake`` is set when the server should hear of it, ``moved`` each time that ``acknowledged`` is told, ``look`` when
    somebody waits for ``vouched`` to move.
    """

    def __init__(self) -> None:
        self.acknowledged = 0
        self.idle = 0
        self.vouched = 0
        self.wake = trio.Event()
        self.moved = trio.Event()
        self.look = trio.Event()
        self._looked = trio.Event()

    def acknowledge(self, lsn: int) -> None:
        """Everything up to here may be forgotten."""
        self.acknowledged = max(self.acknowledged, lsn)
        self.wake.set()
        self.moved.set()
        self.moved = trio.Event()

    def vouch(self, lsn: int) -> None:
        """The stream is whole up to here."""
        self.vouched = max(self.vouched, lsn)
        self.wake.set()
        self._looked.set()
        self._looked = trio.Event()

    async def vouched_for(self, lsn: int) -> None:
        """Return once the stream is known to be whole up to there; only while it runs."""
        while self.vouched < lsn:
            self.look.set()
            await self._looked.wait()

    @property
    def durable(self) -> int:
        """The LSN up to which all that holds something for us is safe."""
        return max(self.acknowledged, self.idle)

    @property
    def forgettable(self) -> int:
        """The LSN up to which the server may forget its log."""
        return min(self.durable, self.vouched)


class SequenceReadings:
    """When the ledger's sequences are read: every so often, and when somebody asks."""

    def __init__(self) -> None:
        self._asked = trio.Event()
        self._answered = trio.Event()

    async def now(self) -> None:
        """Return when values that were read after the call are handed over."""
        self._asked.set()
        await self._answered.wait()

    async def due(self, seconds: float) -> trio.Event:
        """Wait for the next reading; what to set when it is handed over."""
        with trio.move_on_after(seconds):
            await self._asked.wait()
        answered, self._asked, self._answered = self._answered, trio.Event(), trio.Event()
        return answered


class WalReaderContext(NamedTuple):
    """The parts that a reader works with; all but the stream outlive it."""

    options: PostgresOptions
    stream: ReplicationStream
    sql: Worker
    relations: RelationCache
    sink: Sink
    report: SourceReport
    progress: StoredProgress
    readings: SequenceReadings
    basis: BasisWatch


class WalReader:
    """One stream, from its start to the error that ends it. ``sent`` is the origin of the last draft handed over."""

    def __init__(
        self, context: WalReaderContext, start: int, origin: int, *, binary: bool, reread: Reread | None = None
    ) -> None:
        self._context = context
        self._binary = binary
        self._assembler = Assembler(binary, start, reread=reread)
        self._next_message = context.stream.reader()
        self._sending = trio.Lock()
        self._heartbeats = 0
        self._note_at = 0.0
        self._is_status_asked = False
        self._is_stream_dry = False
        self._unresolved_message: bytes | None = None  # a message that waits for its table
        self._announced: dict[int, Relation] = {}
        self._heard_at = trio.current_time()
        self._sequences: dict[tuple[str, str], SequenceValue] = {}
        self._held_up = HeldUp()
        self._numbered_at = 0
        self._emitted: deque[tuple[int, float]] = deque()  # heartbeats: their place in the log, and when they were sent
        self._flushed = start  # the place in the log up to which everything was handed over
        self.sent = origin

    async def run(self) -> None:
        """Never returns. Raises Unavailable, Halted, or NeedsText with everything before it sent."""
        options = self._context.options
        tasks: list[Callable[[], Awaitable[None]]] = [self._read_stream, self._write_statuses, self._vouch]
        if options.heartbeat_seconds:
            tasks.append(self._emit_heartbeats)
        if options.sequence_seconds:
            tasks.append(self._poll_sequences)
        await together(tasks)

    # -- the reader

    async def _read_stream(self) -> None:
        while True:
            oid = self._take_arrived()
            if oid is not None:  # the message comes again once its table is known
                await self._resolve(oid)
                continue
            await self._flush()
            if self._is_stream_dry:
                await self._let_idle_log_go()
                await self._wait_for_more()

    async def _wait_for_more(self) -> None:
        """Until something arrives. Where a commit waits for us to pass it, also until we may."""
        progress = self._context.progress
        if not self._context.options.synchronous or self._assembler.complete <= progress.durable:
            await self._context.stream.wait()
            self._heard_at = trio.current_time()
            return

        async def acknowledged() -> None:
            await progress.moved.wait()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(acknowledged)
            await self._context.stream.wait()
            self._heard_at = trio.current_time()
            nursery.cancel_scope.cancel()

    def _take_arrived(self) -> int | None:
        """Take what has arrived, up to a batch; gives the oid of a table that only the catalogs can explain."""
        # One loop without an await, its names looked up once: every change of the ledger goes through here.
        assembler, next_message, items = self._assembler, self._next_message, self._assembler.items
        self._is_stream_dry = False
        try:
            while len(items) < BATCH_DRAFTS and assembler.item_bytes < BATCH_BYTES:
                data = self._unresolved_message or next_message()
                self._unresolved_message = None
                if data is None:
                    self._is_stream_dry = True
                    break
                if data[0] == XLOG_DATA:
                    if data[XLOG_HEADER_BYTES] == RELATION:
                        self._announce(data)
                    else:
                        assembler.take(data)
                elif data[0] == KEEPALIVE:
                    self._keepalive(data)
                else:
                    raise ValueError(f"a stream message of kind {data[0]}")
        except Unresolved as unresolved:
            self._unresolved_message = data
            return unresolved.oid
        except (ValueError, IndexError, struct.error) as error:
            raise _bad_message(error) from error
        return None

    def _keepalive(self, data: bytes) -> None:
        end, ask = read_keepalive(data)
        # What lies before a keepalive has been sent; but of a transaction that is arriving, the end is still to come.
        self._assembler.passed(end)
        if ask:
            self._is_status_asked = True
            self._context.progress.wake.set()

    def _announce(self, message: bytes) -> None:
        """Keep a Relation message. Most are never used: partitions are announced beside their root."""
        relation = parse_relation(message, XLOG_HEADER_BYTES + 1)
        self._announced[relation.oid] = relation
        self._assembler.announce(relation.oid, ignored=relation.namespace == IGNORED_NAMESPACE)

    async def _resolve(self, oid: int) -> None:
        relation = self._announced.get(oid)
        if relation is None:
            raise _bad_message(ValueError(f"a change of table {oid}, which was not announced"))
        assembler = self._assembler
        context = self._context
        # A table is announced anew when the publication has changed: what comes then goes nowhere.
        await context.basis.look()
        try:
            resolved = await context.relations.resolve(relation, assembler.commit_lsn, context.sql, binary=self._binary)
        except TextFormatNeeded:
            await self._flush()  # the next stream begins behind what was sent: what is collected must be part of that
            raise
        assembler.define(relation.oid, resolved.table, new=resolved.new, until=resolved.until)

    @property
    def parted(self) -> bool:
        """Whether parts of a transaction were cut off whose draft has yet to come."""
        return self._assembler.large

    async def _flush(self) -> None:
        """Send what was collected."""
        assembler, report = self._assembler, self._context.report
        async with self._sending:  # a block of sequences must not come between the parts of a large one
            if assembler.items:
                await self._context.sink.send(assembler.take_items())
                self.sent = max(self.sent, assembler.sent)
                report.heard_at = trio.current_time()
            else:
                await trio.lowlevel.checkpoint()  # a stream that never runs dry would keep the other tasks from running
        if assembler.heartbeats != self._heartbeats:
            self._heartbeats = assembler.heartbeats
            report.heard_at = trio.current_time()
        self._flushed = assembler.complete
        self._note_handed_over()
        report.seen = lsn_text(assembler.complete)
        if self._context.options.synchronous and assembler.complete > self._context.progress.vouched:
            self._context.progress.look.set()
        report.duplicates += assembler.duplicates
        assembler.duplicates = 0

    def _note_handed_over(self) -> None:
        """The log was read beyond a heartbeat, and nothing was left out: what was committed before it was sent is
        handed over."""
        # The time of sending, not that of its return: a backlog returns it late, with more behind it.
        place = min(self._flushed, self._context.progress.vouched)
        while self._emitted and self._emitted[0][0] <= place:
            self._context.report.handed_over_at = self._emitted.popleft()[1]

    async def _let_idle_log_go(self) -> None:
        """While nothing is in flight, let the server forget the log that holds nothing for us.

        It is noted first: a slot that is ahead of both the journal and the note is one that somebody else moved.
        """
        # Without this a quiet ledger on a busy server would keep all of the server's log.
        progress, complete = self._context.progress, self._assembler.complete
        if self._assembler.in_transaction or progress.acknowledged < self.sent or complete <= progress.durable:
            return
        if self._is_status_asked or self._context.options.synchronous or trio.current_time() >= self._note_at:
            self._is_status_asked = False
            self._note_at = trio.current_time() + max(1.0, self._context.options.heartbeat_seconds)
            await self._context.sink.note(IDLE_NOTE, lsn_text(complete))
            progress.idle = complete
            progress.wake.set()

    # -- the others

    async def _write_statuses(self) -> None:
        """Write status: soon after something became durable or was asked for, and every 10 s."""
        progress = self._context.progress
        pause = 0.0 if self._context.options.synchronous else STATUS_PAUSE_SECONDS
        while True:
            progress.wake = trio.Event()  # before what is written is read: news from here on wakes at once
            ask = trio.current_time() - self._heard_at > ASK_AFTER_SECONDS
            await self._context.stream.write_status(progress.forgettable, ask=ask)
            await trio.sleep(pause)  # group commits are many a second, and one status tells of them all
            with trio.move_on_after(STATUS_SECONDS):
                await progress.wake.wait()

    async def _vouch(self) -> None:
        """Look again and again whether what the stream rests on is as it was; what had arrived before is then whole."""
        context, progress = self._context, self._context.progress
        while True:
            progress.look = trio.Event()
            reached = self._assembler.complete  # before the look: what commits behind it may be behind a change, too
            await context.basis.check()
            if self._assembler.reread.is_proven:
                progress.vouch(reached)
                context.report.vouched = lsn_text(progress.vouched)
                self._note_handed_over()
            with trio.move_on_after(context.options.heartbeat_seconds or LOOK_SECONDS):
                await progress.look.wait()

    async def _emit_heartbeats(self) -> None:
        """Send a message through the server's log; its return proves the whole path."""
        report = self._context.report
        while True:
            emitted_at = trio.current_time()
            lsn, slot, held_by = await self._context.sql.call(self._heartbeat, self._context.options.slot)
            self._emitted.append((lsn, emitted_at))
            self._note_handed_over()  # it may have come back before its sender heard where it was put
            if slot is not None:
                report.retained_bytes, report.safe_bytes = slot.retained_bytes, slot.safe_bytes
            held_up = self._held_up.by(held_by, "the log that the server keeps for us", trio.current_time())
            report.held_up = self._context.basis.held_up or held_up
            if self._context.options.synchronous:
                self._note_waited_for(await self._context.sql.call(is_waited_for, self._context.options.slot))
            await trio.sleep(self._context.options.heartbeat_seconds)

    def _heartbeat(self, connection: Connection, slot: str) -> tuple[int, Slot | None, OpenTransaction | None]:
        """Emit a message; where it is in the log, how the slot stands then, and which transaction holds it up, if one
        does."""
        statement = "SELECT pg_logical_emit_message(false, %s, %s::text)::text"
        row = connection.execute(statement, (HEARTBEAT_PREFIX, slot)).fetchone()
        assert row is not None
        self._use_number(connection)
        return parse_lsn(row[0]), read_slot(connection, slot), holding_slot(connection)

    def _use_number(self, connection: Connection) -> None:
        """Use a transaction's number where the log has grown by a segment since the last one.

        The server removes log only when a slot's oldest transaction has moved on. Where nobody writes and the log grows
        nevertheless (archive_timeout does so), none ever would, and all of it would be kept.
        """
        written = written_lsn(connection)
        if written >= self._numbered_at + SEGMENT_BYTES:
            connection.execute("SELECT pg_current_xact_id()")
            self._numbered_at = written

    def _note_waited_for(self, waited_for: bool) -> None:
        """Whether commits wait for us changed: the log says so, for a promise that nobody keeps loudly."""
        report = self._context.report
        if report.waited_for != waited_for:
            report.waited_for = waited_for
            if waited_for:
                log.info("commits wait until other regions have them")
            else:
                log.error(
                    "commits do NOT wait for other regions: synchronous_standby_names; see replicator preflight CONFIG"
                )

    async def _poll_sequences(self) -> None:
        while True:
            answered = await self._context.readings.due(self._context.options.sequence_seconds)
            if await self._send_sequences():
                answered.set()

    async def _send_sequences(self) -> bool:
        """Send the sequences that moved, as a block of their own; not in the midst of a large transaction."""
        # Logical decoding carries no sequences: they are read, and only what changed is worth a block.
        values = await self._context.sql.call(read_sequences, self._context.options.publication)
        moved = [value for value in values if self._sequences.get(value[:2]) != value]
        if not moved:
            return True
        async with self._sending:
            if self.parted:
                return False  # they are read again with the next poll; whoever asked waits until then
            body = b"".join(pack_sequences(moved))
            now = time.time_ns() // 1000
            draft = Draft(SEQUENCES_TXID, lsn_text(self.sent), now, 0, len(moved), body)
            await self._context.sink.send([draft])
        self._sequences.update({(value.namespace, value.name): value for value in moved})
        return True


async def together(tasks: list[Callable[[], Awaitable[None]]]) -> None:
    """Run the tasks until one fails; raise a single error, one that no retry cures if there is one among them."""
    try:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
    except BaseExceptionGroup as group:
        cancelled, rest = group.split(trio.Cancelled)
        if cancelled is not None or rest is None:
            raise  # trio needs its own exceptions back as they are
        halted, others = rest.split(Halted)
        raise first_error(halted or others or rest) from None


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that is not itself a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _bad_message(error: Exception) -> Halted:
    return Halted(
        "bad_message",
        f"the replication stream cannot be read: {error!r}",
        place="replication stream",
        cure="report this with the server's version; nothing was skipped",
    )
